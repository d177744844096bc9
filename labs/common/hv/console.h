/*
 * The console of a VM: the host's standard input and output. On a terminal the input is put into raw mode (so that Ctrl-C
 * and the arrow keys reach the guest), Ctrl-A x leaves, Ctrl-A Ctrl-A (or Ctrl-A a) sends one Ctrl-A; the terminal is
 * restored on every way out, signals included. Another key after Ctrl-A is dropped together with it. When the input is not
 * a terminal it is passed on as it is, and its end is not an error. A terminal that belongs to another job (hv runs in the
 * background) is not touched and counts as input that has ended. Bytes that arrive while the receiver has no room wait (the
 * descriptor is paused), none is lost.
 */
#ifndef HV_CONSOLE_H
#define HV_CONSOLE_H

#include "loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <termios.h>

struct state_io;

#define CONSOLE_OUT 1024

struct console {
	struct loop *loop;
	int in_fd, out_fd;
	int own_fd; /* in_fd, when it is a pipe that was opened once more, else -1 */
	bool is_tty, raw; /* raw: saved holds what the terminal was before */
	bool escape;      /* Ctrl-A was typed, the next key decides */
	bool eof;         /* no more input will come */
	bool broken;      /* nobody reads the output any more (EPIPE, ...): it is dropped */
	struct termios saved;
	/* When not NULL and *cancel is not 0, a write that waits for a slow reader gives up: the VM is to end. */
	const volatile int *cancel;
	/* The receiver: takes up to len bytes, returns how many it took. Set by the UART; while the driver of a virtio console runs, that
	 * console is the receiver (virtio_console.c). */
	size_t (*receive)(void *opaque, const uint8_t *data, size_t len);
	void *receive_opaque;
	bool held; /* input waits, whoever the receiver is: the VM is not there yet */
	void (*quit)(void *opaque); /* Ctrl-A x was typed */
	void *quit_opaque;
	const char *prefix;         /* begins each line of output, or NULL */
	bool whole_lines;           /* the output is shared: nothing is passed on before its line ends, if it fits */
	bool in_line;               /* the prefix of the present line is written */
	uint8_t pending[256]; /* read but not yet taken by the receiver */
	size_t npending;
	uint8_t out[CONSOLE_OUT]; /* written by the guest, not yet passed on */
	size_t nout;
	bool ending;  /* console_stop() was called: */
	int patience; /* a write still waits that often for its reader */
	bool sending; /* somebody is passing output on and may have given up the lock */
	/* Called when there is room again after console_offer() has not taken everything. May be NULL. */
	void (*room)(void *opaque);
	void *room_opaque;
	struct loop_timer flush_timer, room_timer;
};

/*
 * Starts the console on two descriptors; puts a terminal into raw mode. 0 or -errno. The fields receive, quit and cancel
 * (with their opaque pointers) are kept: set them before or after, or leave them NULL. SIGPIPE is ignored from here on.
 */
int console_start(struct console *con, struct loop *loop, int in_fd, int out_fd);
/* Passes on the last output and restores the terminal. Safe to call twice. With the lock held, before loop_destroy(). */
void console_stop(struct console *con);
/* Passes on the last output and restores the terminal from a signal handler (async-signal-safe); works on the console that
 * was started last. */
void console_restore_terminal(void);
/*
 * Takes guest output. Guests print byte by byte, and passing each on by itself would cost more than the guest's own exit, so
 * output is collected: it goes out at the end of a line, when the buffer is full, a few milliseconds later at the latest, and
 * in console_stop(). Called with the lock held once; while the reader at the other end is slow the lock is given up, so
 * that time-outs, signals and Ctrl-A x go on working.
 */
void console_write(struct console *con, const uint8_t *data, size_t len);
/*
 * The same for a device that can wait: takes what there is room for, at once, and returns how many bytes; the lock is kept. When that is
 * less than len, con->room is called once there is room again. Output that nobody will read any more is taken and dropped.
 */
size_t console_offer(struct console *con, const uint8_t *data, size_t len);
/* Passes on what was collected, whole, however small the pieces that the descriptor takes. With the lock held once. */
void console_flush(struct console *con);
/* The receiver has room again: hand over what waits. */
void console_kick(struct console *con);
/* Saves and loads the input that nobody has taken yet. Output is not state: it stays with the process that the guest gave it to. */
void console_state(struct console *con, struct state_io *io);

#endif
