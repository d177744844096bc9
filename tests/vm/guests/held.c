/*
 * STI at the end of a page, HLT at the beginning of the next one, which is not in the shadow: between the two the machine faults, and the
 * guest must not notice. An interrupt that has been waiting may strike only behind HLT. (SDM vol. 2, STI)
 */
#include "../../../labs/01-trap-emulate/guests/event.h"
#include "pic.h"

PARAMS;

#define BASE 0x20
#define UART_IER 0x3f9
#define IER_THRE 2
#define BORDER 0x2000000ull /* of two large pages of the loader's */

SNIPPET(open_halt, "sti; hlt; nop; ud2");

int guest_main(void)
{
	tables_load();
	events_begin();
	pic_init(BASE);
	pic_unmask(IRQ_COM1);
	PLACE(BORDER - 1, open_halt);
	trial_set(1, BORDER - 1, BORDER + 0x100000, 0);
	outb(UART_IER, IER_THRE);
	asm volatile("invlpg (%0)" : : "r"(BORDER) : "memory");
	trial_run("halt");
	return 0;
}
