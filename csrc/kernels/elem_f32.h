/* elem_f32.h - what the float kernel templates read and write: floats. Needs the vectors of an ISA (vec_*.h); its twins are elem_bf16_*.h. */
#ifndef DN_KERNELS_ELEM_F32_H
#define DN_KERNELS_ELEM_F32_H

typedef float elem;

VEC_INLINE vec elem_load(const elem *x) { return vec_load(x); }
VEC_INLINE vec elem_load_mask(const elem *x, vec_mask m) { return vec_load_mask(x, m); }
VEC_INLINE void elem_store(elem *x, vec v) { vec_store(x, v); }
VEC_INLINE void elem_store_mask(elem *x, vec v, vec_mask m) { vec_store_mask(x, v, m); }

#endif
