/* lanes_f32_end.h - undoes lanes_f32.h, but for PASTE. */
#undef VEC
#undef LOOSE
#undef MASK
#undef NAME
#undef EACH
#undef INLINE
