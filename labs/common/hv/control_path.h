/*
 * Where the control sockets of named VMs lie: NAME.sock in $XDG_RUNTIME_DIR/trapdoor, or in /tmp/trapdoor-UID where there is no such
 * directory. It is private (0700), because who can write to the socket commands the VM. Used by hv run, hv ctl and hv list.
 */
#ifndef HV_CONTROL_PATH_H
#define HV_CONTROL_PATH_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#define CONTROL_NAME_MAX 40
#define CONTROL_SUFFIX ".sock"

/* From 1 to CONTROL_NAME_MAX letters, digits, dots, hyphens and underscores, the first of them a letter or digit. */
bool control_name_valid(const char *name);

/*
 * The directory, into dir. It is made if make is set. 0, -ENOENT (it does not exist: nobody has named a VM), or -errno with a
 * sentence in err: it belongs to somebody else, others may enter it, it is no directory.
 */
int control_directory(char *dir, size_t len, bool make, char *err, size_t errlen);

/* The address of the socket at path. 0, or -ENAMETOOLONG with a sentence in err. */
int control_address(const char *path, struct sockaddr_un *addr, char *err, size_t errlen);

/*
 * A connection to the socket at path; every wait on it ends after so many seconds. The descriptor, -ECONNREFUSED (nobody
 * listens: a VM has left it behind), -ENOENT, -EAGAIN (somebody listens who does not answer), or another -errno. No sentence.
 */
int control_connect(const struct sockaddr_un *addr, unsigned seconds);

/*
 * Holds off other programs that would make or remove a socket in the directory of path, until the descriptor is closed. Waits for them,
 * but not for ever, and only a tenth of a second where the directory is not ours alone and anybody could hold us off. Then, and where
 * directories cannot be locked, -1, which need not be closed: the caller goes on without.
 */
int control_lock(const char *path);

#endif
