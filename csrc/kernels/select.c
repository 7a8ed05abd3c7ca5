/* select.c - picks kernel records by CPU features. */
#include "kernels/kernels.h"

void dn_kernels_select(dn_kernels *kernels, unsigned features) {
#define DN_KERNEL(slot, isa, needed) \
    if ((features & (needed)) == (needed)) kernels->slot = &dn_##slot##_##isa;
#include "kernels/kernels.inc"
#undef DN_KERNEL
}

dn_isa dn_isa_effective(dn_isa isa) {
    dn_kernels kernels = {0};
    dn_kernels_select(&kernels, dn_cpu_detect() & dn_isa_features(isa));
    for (int i = DN_ISA_REF; i < DN_ISA_BEST; i++) {
        const char *name = dn_isa_name((dn_isa)i), *found = kernels.conv_s8->isa;
        size_t k = 0;
        while (name[k] && name[k] == found[k]) k++;
        if (name[k] == found[k]) return (dn_isa)i;
    }
    return DN_ISA_REF;
}
