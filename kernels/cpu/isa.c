#include "cpu_int.h"

#if defined(__x86_64__)
#include <cpuid.h>

static int has_avx2(void)
{
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
}

static int has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

static const char *const isa_names[KERN_ISA_COUNT] = {"auto", "scalar", "avx2", "avx512"};

const char *kern_isa_name(enum kern_isa isa)
{
    return (unsigned)isa < KERN_ISA_COUNT ? isa_names[isa] : NULL;
}

int kern_isa_parse(const char *name)
{
    for (int i = 0; i < KERN_ISA_COUNT; i++)
        if (strcmp(name, isa_names[i]) == 0)
            return i;
    return -1;
}

enum kern_ahead kern_ahead_of(enum kern_ahead wanted)
{
    if (wanted != KERN_AHEAD_AUTO)
        return wanted;
#if defined(__x86_64__)
    if (__builtin_cpu_is("intel"))
        return KERN_AHEAD_L2;
#endif
    return KERN_AHEAD_L1;
}

const struct kern_cpu *kern_cpu(enum kern_isa isa)
{
    switch (isa) {
    case KERN_ISA_AUTO:
        for (int i = KERN_ISA_COUNT - 1; i > KERN_ISA_SCALAR; i--)
            if (kern_cpu((enum kern_isa)i))
                return kern_cpu((enum kern_isa)i);
        return &kern_cpu_scalar;
    case KERN_ISA_SCALAR:
        return &kern_cpu_scalar;
#if defined(__x86_64__)
    case KERN_ISA_AVX2:
        return has_avx2() ? &kern_cpu_avx2 : NULL;
    case KERN_ISA_AVX512:
        return has_avx512() ? &kern_cpu_avx512 : NULL;
#endif
    default:
        return NULL;
    }
}
