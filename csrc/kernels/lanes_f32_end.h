/* lanes_f32_end.h - undoes lanes_f32.h. */
#undef VEC
#undef LOOSE
#undef MASK
#undef NAME
#undef EACH
#undef INLINE
#undef PASTE
#undef PASTE2
