// sources: irqchip.c pic.c lapic.c ioapic.c bus.c state_io.c
/* How the interrupt controllers are wired, and which of them the vCPU hears. */
#include "irqchip.h"
#include "engine.h"
#include "lab1.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define PIC_VECTOR 0x20
#define MASKED 0x10000u
#define EXTINT 0x700u

static struct vm vm;
static unsigned kicks, nmis;
static uint32_t host_edx;

uint64_t clock_ns(void)
{
	return 0;
}

void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t deadline_ns)
{
	(void)loop;
	timer->deadline_ns = deadline_ns;
}

void vm_kick(struct vm *v)
{
	assert_ptr_equal(v, &vm);
	kicks++;
}

struct cpuid_result trap_host_cpuid(const struct vcpu *v, uint32_t leaf, uint32_t subleaf)
{
	(void)v, (void)leaf, (void)subleaf;
	return (struct cpuid_result){ .edx = host_edx };
}

static void nmi(struct vm *v)
{
	assert_ptr_equal(v, &vm);
	nmis++;
}

static struct engine_ops engine = { .nmi = nmi };

static void port(uint16_t number, uint8_t value)
{
	assert_true(bus_write(&vm.pio, number, 1, value));
}

static void lapic(unsigned reg, uint32_t value)
{
	assert_true(bus_write(&vm.mmio, LAPIC_BASE + reg, 4, value));
}

static void entry(unsigned pin, uint32_t value)
{
	assert_true(bus_write(&vm.mmio, IOAPIC_BASE, 4, 0x10 + 2 * pin));
	assert_true(bus_write(&vm.mmio, IOAPIC_BASE + 0x10, 4, value));
}

static void pulse(unsigned irq)
{
	irqchip_set_line(&vm, irq, true);
	irqchip_set_line(&vm, irq, false);
}

static void write_base(uint64_t value)
{
	vm.vcpu.msr.apic_base = value;
	irqchip_msr_written(&vm.vcpu);
}

static int setup(void **state)
{
	(void)state;
	vm = (struct vm){ .engine = &engine };
	pthread_mutex_init(&vm.lock, NULL);
	vm.vcpu.vm = &vm;
	vm.vcpu.msr.apic_base = LAPIC_BASE | APIC_BASE_ENABLE | APIC_BASE_BSP;
	bus_init(&vm.pio, "port");
	bus_init(&vm.mmio, "address");
	assert_int_equal(irqchip_init(&vm), 0);
	port(0x20, 0x11);
	port(0x21, PIC_VECTOR);
	port(0x21, 4);
	port(0x21, 1);
	port(0x21, 0);
	kicks = nmis = 0;
	host_edx = 0;
	return 0;
}

static void the_pair_alone(void **state)
{
	(void)state;
	assert_false(irqchip_pending(&vm));
	pulse(4);
	assert_int_equal(kicks, 1);
	assert_true(irqchip_pending(&vm));
	assert_int_equal(irqchip_acknowledge(&vm), PIC_VECTOR + 4);
	assert_false(irqchip_pending(&vm));
	assert_int_equal(irqchip_acknowledge(&vm), PIC_VECTOR + 7); /* spurious, of the 8259 */
}

static void lint0_masked_keeps_the_pair_away(void **state)
{
	(void)state;
	lapic(0xf0, 0x1ff); /* else the mask stays */
	lapic(0x350, MASKED | EXTINT);
	pulse(4);
	assert_false(irqchip_pending(&vm));
	assert_int_equal(kicks, 0);
	lapic(0x350, EXTINT); /* the pair still asks */
	assert_true(irqchip_pending(&vm));
	assert_int_equal(irqchip_acknowledge(&vm), PIC_VECTOR + 4);
}

static void the_task_priority_does_not_concern_the_pair(void **state)
{
	(void)state;
	lapic(0x80, 0xf0);
	assert_int_equal(vm.vcpu.cr8, 15);
	pulse(4);
	assert_true(irqchip_pending(&vm));
}

static void one_line_to_both(void **state)
{
	(void)state;
	lapic(0xf0, 0x1ff);
	lapic(0x350, MASKED);
	for (unsigned irq = 0; irq < 16; irq++)
		entry(irq ? irq == 2 ? 23 : irq : 2, 0x40 + irq); /* the timer's is 2, and IRQ 2 has none */
	for (unsigned irq = 0; irq < 16; irq++) {
		pulse(irq);
		assert_int_equal(irqchip_pending(&vm), irq != 2);
		if (irq == 2)
			continue;
		assert_int_equal(irqchip_acknowledge(&vm), 0x40 + irq);
		lapic(0xb0, 0);
	}
	entry(0, 0x60); /* pin 0 is not wired */
	entry(2, MASKED);
	pulse(0);
	assert_false(irqchip_pending(&vm));
}

static void an_eoi_comes_back_to_the_line(void **state)
{
	(void)state;
	lapic(0xf0, 0x1ff);
	lapic(0x350, MASKED);
	entry(5, 0x8050);
	irqchip_set_line(&vm, 5, true);
	assert_int_equal(irqchip_acknowledge(&vm), 0x50);
	assert_false(irqchip_pending(&vm));
	lapic(0xb0, 0);
	assert_true(irqchip_pending(&vm)); /* nobody has served the device */
	assert_int_equal(irqchip_acknowledge(&vm), 0x50);
	irqchip_set_line(&vm, 5, false);
	lapic(0xb0, 0);
	assert_false(irqchip_pending(&vm));
}

static void nmis_go_to_the_engine(void **state)
{
	(void)state;
	lapic(0x300, 0x40400);
	assert_int_equal(nmis, 1);
	entry(6, 0x400);
	pulse(6);
	assert_int_equal(nmis, 2);
	vm.engine = &(struct engine_ops){ 0 };
	lapic(0x300, 0x40400); /* lost */
	assert_int_equal(nmis, 2);
}

static void off_by_msr(void **state)
{
	struct cpuid_result r = { .edx = 1 };
	(void)state;
	irqchip_cpuid(&vm.vcpu, 1, &r);
	assert_int_equal(r.edx, 0x201);
	lapic(0x350, MASKED);
	pulse(4);
	assert_false(irqchip_pending(&vm));
	write_base(LAPIC_BASE | APIC_BASE_BSP);
	assert_true(irqchip_pending(&vm)); /* INTR goes to the vCPU by itself */
	irqchip_cpuid(&vm.vcpu, 1, &r);
	assert_int_equal(r.edx, 1);
	write_base(LAPIC_BASE | APIC_BASE_BSP | APIC_BASE_ENABLE);
	assert_false(irqchip_pending(&vm)); /* as after a reset: LINT0 is masked */
}

static void cpuid(void **state)
{
	struct cpuid_result r = { 0 };
	(void)state;
	irqchip_cpuid(&vm.vcpu, 0x80000001, &r);
	assert_int_equal(r.edx, 0); /* Intel's do not have it there */
	host_edx = 0x200;
	irqchip_cpuid(&vm.vcpu, 0x80000001, &r);
	assert_int_equal(r.edx, 0x200);
	r.edx = 0;
	irqchip_cpuid(&vm.vcpu, 7, &r);
	assert_int_equal(r.edx, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(the_pair_alone, setup),
		cmocka_unit_test_setup(lint0_masked_keeps_the_pair_away, setup),
		cmocka_unit_test_setup(the_task_priority_does_not_concern_the_pair, setup),
		cmocka_unit_test_setup(one_line_to_both, setup),
		cmocka_unit_test_setup(an_eoi_comes_back_to_the_line, setup),
		cmocka_unit_test_setup(nmis_go_to_the_engine, setup),
		cmocka_unit_test_setup(off_by_msr, setup),
		cmocka_unit_test_setup(cpuid, setup),
	};
	return cmocka_run_group_tests_name("irqchip", tests, NULL, NULL);
}
