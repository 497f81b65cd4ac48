/* The first instructions of a program on QEMU's boards mps2-an385, an386 and an500. QEMU has filled
   the memory already, with zeros where nothing is to stand. */

#include <stdint.h>

extern uint32_t stack_top;
int main(void);
void initialise_monitor_handles(void); /* newlib's: files of the host */
void _exit(int);

void reset(void) {
#ifdef __ARM_FP
    *(volatile uint32_t *)0xe000ed88 |= 0xfu << 20; /* switch the floating-point unit on */
    __asm volatile("dsb\n isb");
#endif
    initialise_monitor_handles();
    _exit(main());
}

static void fault(void) { _exit(3); }

__attribute__((section(".vectors"), used)) static void *const vectors[] = {
    &stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault,
};
