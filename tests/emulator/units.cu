// Units of attention as teams of larger blocks run them, for test_units.c: the first teams of a
// block take units in turns, 64 more threads have nothing to do.
#include "cuda/attention.cuh"

template <int DT, int GB, int DIM, int TEAMS>
__device__ __forceinline__ void take_units(const cu_attention &a, const cu_turn &t, int units)
{
    SHARED_DYNAMIC(float, shared);
    const attn::team_barriers<TEAMS> sync = {3};
    if (threadIdx.x >= TEAMS * CU_ATTENTION_THREADS)
        return;
    for (int64_t row = 0; row < t.n; row++)
        for (int y = (int)blockIdx.x; y < units; y += (int)gridDim.x) {
            attn::unit<DT, GB, DIM, TEAMS> u;
            if (t.q) {
                const bool there = attn::turn_begin(a, t, row, y, shared, u);
                sync.all();
                if (there)
                    attn::turn_end(a, t, u, shared, sync);
            } else {
                attn::attend<DT, GB, DIM, TEAMS>(a, row, y, shared, sync);
            }
            sync.all();
        }
}

#define UNITS(name, DT, GB, DIM, TEAMS)                                                            \
    KERNEL __launch_bounds__(TEAMS *CU_ATTENTION_THREADS + 64)                                     \
        name(const __grid_constant__ cu_attention a, const __grid_constant__ cu_turn t, int units) \
    {                                                                                              \
        take_units<DT, GB, DIM, TEAMS>(a, t, units);                                               \
    }

UNITS(units_bf16_1, DTYPE_BF16, 1, 0, 1)
UNITS(units_bf16_8, DTYPE_BF16, 8, 0, 1)
UNITS(units_bf16_2_128, DTYPE_BF16, 2, 128, 1)
UNITS(units_bf16_4_64, DTYPE_BF16, 4, 64, 1)
UNITS(units_f32_4, DTYPE_F32, 4, 0, 1)
UNITS(pairs_bf16_2_128, DTYPE_BF16, 2, 128, 2)
UNITS(fours_bf16_4, DTYPE_BF16, 4, 0, 4)
