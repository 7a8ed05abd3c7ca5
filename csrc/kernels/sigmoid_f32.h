/* sigmoid_f32.h - constants of the float sigmoid, shared by every ISA so that all give the same bits. */
#ifndef DN_KERNELS_SIGMOID_F32_H
#define DN_KERNELS_SIGMOID_F32_H

/* e^a = 2^n * e^r with n = round(a / ln 2) and |r| <= ln 2 / 2; ln 2 in two parts, the first with few bits so that n * high is exact. e^r - 1 - r = r * r * (C2 + C3 r + ...):
 * coefficients of Cephes' expf (S. Moshier, 1989), below 1 ulp. */
#define SIGMOID_LOWEST (-87.0f) /* e^-87 is still normal; below it the sigmoid stays at 1.6e-38 */
#define SIGMOID_LOG2E 0x1.715476p+0f
#define SIGMOID_ROUND 0x1.8p+23f /* added, it leaves the nearest integer in the low bits of the significand */
#define SIGMOID_LN2_HIGH 0.693359375f
#define SIGMOID_LN2_LOW (-2.12194440e-4f)
#define SIGMOID_C2 5.0000001201e-1f
#define SIGMOID_C3 1.6666665459e-1f
#define SIGMOID_C4 4.1665795894e-2f
#define SIGMOID_C5 8.3334519073e-3f
#define SIGMOID_C6 1.3981999507e-3f
#define SIGMOID_C7 1.9875691500e-4f

#endif
