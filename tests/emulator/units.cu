// Units of attention as teams of larger blocks run them, for test_units.c: blocks of 192 threads,
// the first 128 of which take units in turns.
#include "cuda/attention.cuh"

#define UNITS(name, DT, GB, DIM)                                                                   \
    KERNEL __launch_bounds__(192)                                                                  \
        name(const __grid_constant__ cu_attention a, const __grid_constant__ cu_turn t, int units) \
    {                                                                                              \
        SHARED_DYNAMIC(float, shared);                                                             \
        const attn::team_barrier sync = {3};                                                       \
        if (threadIdx.x >= CU_ATTENTION_THREADS)                                                   \
            return;                                                                                \
        for (int64_t row = 0; row < t.n; row++)                                                    \
            for (int y = (int)blockIdx.x; y < units; y += (int)gridDim.x) {                        \
                if (t.q)                                                                           \
                    attn::turn_and_attend<DT, GB, DIM>(a, t, row, y, shared, sync);                \
                else                                                                               \
                    attn::attend<DT, GB, DIM>(a, row, y, shared, sync);                            \
                sync();                                                                            \
            }                                                                                      \
    }

UNITS(units_bf16_1, DTYPE_BF16, 1, 0)
UNITS(units_bf16_2, DTYPE_BF16, 2, 0)
UNITS(units_bf16_4, DTYPE_BF16, 4, 0)
UNITS(units_bf16_8, DTYPE_BF16, 8, 0)
UNITS(units_bf16_1_128, DTYPE_BF16, 1, 128)
UNITS(units_bf16_2_128, DTYPE_BF16, 2, 128)
UNITS(units_bf16_4_64, DTYPE_BF16, 4, 64)
UNITS(units_bf16_8_128, DTYPE_BF16, 8, 128)
UNITS(units_f32_4, DTYPE_F32, 4, 0)
UNITS(units_f32_4_64, DTYPE_F32, 4, 64)
