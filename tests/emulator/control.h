/*
 * What the emulated plugin exports for tests beside its table: faults to order. A test finds the
 * functions with emulator_symbol_or_skip of tests/gpu.h. Any thread.
 */
#ifndef MOED_TESTS_EMULATOR_CONTROL_H
#define MOED_TESTS_EMULATOR_CONTROL_H

#define EMULATOR_API __attribute__((visibility("default")))

/* The n-th launch (of a kernel; a graph counts as one) from now fails with
 * CUDA_ERROR_LAUNCH_FAILED, and so does every call from then on until the last device is closed. 0:
 * none. */
EMULATOR_API void emulator_fail_launch(unsigned n);
/* The n-th copy from now fails in the same way, when it runs. */
EMULATOR_API void emulator_fail_copy(unsigned n);
/* The n-th allocation or registration from now is refused; nothing sticks. */
EMULATOR_API void emulator_fail_alloc(unsigned n);

#endif
