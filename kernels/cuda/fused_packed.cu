// The fused step (fused_step.cuh) of experts in packed rows.
#include "fused_step.cuh"

KERNEL __launch_bounds__(CU_FUSED_THREADS, 1) fused_packed(const __grid_constant__ cu_fused f)
{
    run_step<true>(f);
}
