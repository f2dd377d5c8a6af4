/*
 * The numbers of kern_exp, for all instruction sets and for CUDA.
 *
 * exp(x) = 2^n * e^r with n = rint(x / ln 2) and r = x - n ln 2 in two steps, e^r = 1 + r + r^2
 * q(r) with q of degree 4 (interpolated at Chebyshev nodes of |r| <= 0.3466). 2^n is applied as two
 * exact powers, so a subnormal result rounds once. All forms do the same operations.
 */
#ifndef MOED_KERNELS_EXP_CONSTANTS_H
#define MOED_KERNELS_EXP_CONSTANTS_H

#define EXP_HI     88.73f
#define EXP_LO     (-104.0f)
#define EXP_LOG2E  0x1.715476p+0f
#define EXP_LN2_HI 0x1.62e4p-1f
#define EXP_LN2_LO 0x1.7f7d1cp-20f
#define EXP_MAGIC  0x1.8p23f /* x + magic - magic rounds x to a whole number */
#define EXP_Q0     0x1p-1f
#define EXP_Q1     0x1.5554dcp-3f
#define EXP_Q2     0x1.55551ap-5f
#define EXP_Q3     0x1.120b6cp-7f
#define EXP_Q4     0x1.6d1106p-10f

#endif
