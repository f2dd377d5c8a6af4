/* Switching between stacks: by hand on x86-64, with ucontext elsewhere; the address sanitizer is
 * told about each switch. */
#ifndef MOED_TESTS_EMULATOR_SWITCH_H
#define MOED_TESTS_EMULATOR_SWITCH_H

#include <stddef.h>
#include <stdint.h>

#ifndef __x86_64__
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

struct stack {
    uint8_t *base; /* NULL: the thread's own, filled at the first switch away from it */
    size_t bytes;
#ifdef __x86_64__
    void *sp;
#else
    ucontext_t context;
#endif
    void *fake; /* the address sanitizer's */
};

#ifdef __x86_64__
void emulator_switch_stacks(void **from_sp, void *to_sp);
/* Callee-saved registers on the old stack, then the same from the new one. */
__asm__(".text\n"
        ".hidden emulator_switch_stacks\n"
        ".globl emulator_switch_stacks\n"
        ".type emulator_switch_stacks, @function\n"
        "emulator_switch_stacks:\n"
        "    push %rbp\n"
        "    push %rbx\n"
        "    push %r12\n"
        "    push %r13\n"
        "    push %r14\n"
        "    push %r15\n"
        "    mov %rsp, (%rdi)\n"
        "    mov %rsi, %rsp\n"
        "    pop %r15\n"
        "    pop %r14\n"
        "    pop %r13\n"
        "    pop %r12\n"
        "    pop %rbx\n"
        "    pop %rbp\n"
        "    ret\n"
        ".size emulator_switch_stacks, . - emulator_switch_stacks\n");
#endif

/* Makes the next switch to s call entry, which never returns. */
static inline void stack_prepare(struct stack *s, void (*entry)(void))
{
#ifdef __x86_64__
    uintptr_t *top = (uintptr_t *)(s->base + s->bytes);
    *--top = 0; /* keeps the stack at entry as after a call */
    *--top = (uintptr_t)entry;
    for (int i = 0; i < 6; i++)
        *--top = 0;
    s->sp = top;
#else
    getcontext(&s->context);
    s->context.uc_stack.ss_sp = s->base;
    s->context.uc_stack.ss_size = s->bytes;
    s->context.uc_link = NULL;
    makecontext(&s->context, entry, 0);
#endif
    s->fake = NULL;
}

/* ends: `from` will not run again. */
static inline void stack_switch(struct stack *from, struct stack *to, int ends)
{
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(ends ? NULL : &from->fake, to->base, to->bytes);
#else
    (void)ends;
#endif
#ifdef __x86_64__
    emulator_switch_stacks(&from->sp, to->sp);
#else
    swapcontext(&from->context, &to->context);
#endif
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(from->fake, NULL, NULL);
#endif
}

/* First thing on a new stack; came_from, unless NULL, is filled with where the switch came from. */
static inline void stack_entered(struct stack *came_from)
{
#ifdef __SANITIZE_ADDRESS__
    const void *base;
    size_t bytes;
    __sanitizer_finish_switch_fiber(NULL, &base, &bytes);
    if (came_from) {
        came_from->base = (uint8_t *)base;
        came_from->bytes = bytes;
    }
#else
    (void)came_from;
#endif
}

/* A stack whose fiber was given up: nothing on it is in use. */
static inline void stack_abandon(struct stack *s)
{
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(s->base, s->bytes);
#else
    (void)s;
#endif
}

#endif
