/*
 * The life of a VM: platform devices, kicks, and how it ends.
 */
#include "engine.h"
#include "irqchip.h"
#include "vm.h"
#include "vm_life.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int vm_stop(struct vm *vm, int status, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&vm->lock);
	if (!vm->stopping) {
		vm->status = status;
		va_start(ap, fmt);
		vsnprintf(vm->reason, sizeof vm->reason, fmt, ap);
		va_end(ap);
		for (char *c = vm->reason; *c; c++)
			if ((unsigned char)*c < ' ' || *c == 0x7f)
				*c = '?'; /* of a file's name, say: it must not reach the terminal */
		vm->stopping = 1;
		vm_kick(vm);
	}
	pthread_mutex_unlock(&vm->lock);
	return -ECANCELED;
}

void vm_kick(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->kicked = true;
	pthread_cond_broadcast(&vm->wake);
	bool self = pthread_equal(pthread_self(), vm->vcpu_thread);
	if (vm->vcpu_running && (!self || vm->opt.cpus > 1))
		vm->engine->kick(vm);
	if (vm->vcpu_running && !self)
		pthread_kill(vm->vcpu_thread, VM_KICK_SIGNAL);
	pthread_mutex_unlock(&vm->lock);
}

int vm_todo(struct vm *vm, const char *step, const char *hint)
{
	return vm_stop(vm, HV_TODO, "step %s is not written yet: %s", step, hint);
}

const struct engine_ops *engine_find(const char *name)
{
	static const struct engine_ops *const engines[] = { &engine_trap, &engine_hvm, &engine_kvm };
	for (unsigned i = 0; i < sizeof engines / sizeof *engines; i++)
		if (!strcmp(engines[i]->name, name))
			return engines[i];
	return NULL;
}

static void set_irq(void *opaque, unsigned irq, bool level)
{
	struct vm *vm = opaque;
	vm->engine->irq_line(vm, irq, level);
}

static void guest_exit(void *opaque, uint32_t code)
{
	struct vm *vm = opaque;

	if (vm->stopping)
		return;
	vm->guest_code = code;
	if (code)
		vm_stop(vm, HV_GUEST_FAILED, "the guest ended itself with exit code %u", code);
	else
		vm_stop(vm, HV_OK, "%s", "");
}
static void guest_reset(void *opaque) { vm_stop(opaque, HV_OK, "the guest reset the machine"); }
static void guest_poweroff(void *opaque) { vm_stop(opaque, HV_OK, "the guest powered the machine off"); }
static void console_quit(void *opaque) { vm_stop(opaque, HV_OK, "left with Ctrl-A x"); }

int vm_create_devices(struct vm *vm)
{
	struct irq_line uart_irq = { set_irq, vm, 4 }, pit_irq = { set_irq, vm, 0 }, keyboard_irq = { set_irq, vm, 1 };
	struct bus *pio = &vm->pio;
	int err = 0;

	bus_init(pio, "port");
	bus_init(&vm->mmio, "address");
	vm->con.quit = console_quit;
	vm->con.quit_opaque = vm;
	vm->con.cancel = &vm->stopping;
	vm->con.held = vm->virtio_stands = vm->opt.incoming || vm->opt.restore;
	uart_init(&vm->uart, uart_irq, &vm->con);
	cmos_init(&vm->cmos, vm->mem.size);
	debugdev_init(&vm->debug, &vm->con, guest_exit, vm);
	i8042_init(&vm->i8042, keyboard_irq, guest_reset, vm);
	crtc_init(&vm->crtc);
	vm->acpi = (struct acpi_pm){ .poweroff = guest_poweroff, .opaque = vm };
	err |= bus_add(pio, 0x3f8, 8, &uart_ops, &vm->uart);
	err |= bus_add(pio, 0x70, 2, &cmos_ops, &vm->cmos);
	err |= bus_add(pio, 0xe9, 1, &debugcon_ops, &vm->debug);
	err |= bus_add(pio, 0xf4, 4, &debugexit_ops, &vm->debug);
	err |= bus_add(pio, I8042_DATA, 1, &i8042_data_ops, &vm->i8042);
	err |= bus_add(pio, I8042_COMMAND, 1, &i8042_command_ops, &vm->i8042);
	err |= bus_add(pio, PORT_A, 1, &port_a_ops, &vm->i8042);
	err |= bus_add(pio, CRTC_PORT, 2, &crtc_ops, &vm->crtc);
	err |= bus_add(pio, CRTC_MISC_WRITE, 1, &crtc_misc_write_ops, &vm->crtc);
	err |= bus_add(pio, CRTC_MISC_READ, 1, &crtc_misc_read_ops, &vm->crtc);
	err |= bus_add(pio, CRTC_STATUS, 1, &crtc_status_ops, &vm->crtc);
	err |= bus_add(pio, ACPI_PM1A_EVT, ACPI_PM_LEN, &acpi_pm_ops, &vm->acpi);
	if (!vm->engine->has_pic)
		err |= irqchip_init(vm);
	if (!vm->engine->has_pit) {
		pit_init(&vm->pit, &vm->loop, pit_irq);
		err |= bus_add(pio, 0x40, 4, &pit_ops, &vm->pit);
		err |= bus_add(pio, 0x61, 1, &port61_ops, &vm->pit);
	}
	return err ? -EINVAL : 0;
}
