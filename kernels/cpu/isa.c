#include "cpu_int.h"

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
    default:
        return NULL;
    }
}
