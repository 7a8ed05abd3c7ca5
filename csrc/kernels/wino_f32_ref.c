/* wino_f32_ref.c - transforms of Winograd in float for any CPU: vectors of four, which every compiler can spell. */
#define ISA ref
#define ISA_NAME "ref"
#define TARGET
#define WIDE 4
#include "kernels/wino_f32_template.h"
