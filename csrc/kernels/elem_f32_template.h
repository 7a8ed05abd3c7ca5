/* elem_f32_template.h - what the float kernel templates read and write: floats. Needs the vectors of an ISA (vec_*.h); its twins are elem_bf16_*.h. */
typedef float elem;

VEC_INLINE vec elem_load(const elem *x) { return vec_load(x); }
VEC_INLINE vec elem_load_mask(const elem *x, vec_mask m) { return vec_load_mask(x, m); }
VEC_INLINE void elem_store(elem *x, vec v) { vec_store(x, v); }
VEC_INLINE void elem_store_mask(elem *x, vec v, vec_mask m) { vec_store_mask(x, v, m); }

/* Sixteen channels in order. */
VEC_INLINE void elem_store_panel(elem *x, const vec v[VECS]) {
#pragma GCC unroll 4
    for (int j = 0; j < VECS; j++) elem_store(x + j * VEC, v[j]);
}

/* Sixteen channels as VECS vectors, in whatever order they are cheapest to read: in order. */
VEC_INLINE vec elem_load_part(const elem *x, const int j) { return elem_load(x + j * VEC); }
VEC_INLINE vec elem_table_part(const float *x, const int j) { return vec_load(x + j * VEC); }
VEC_INLINE void elem_store_parts(elem *x, const vec v[VECS]) { elem_store_panel(x, v); }
VEC_INLINE void elem_order_parts(vec v[VECS]) { (void)v; }
