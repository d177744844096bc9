/* User programs that are about memory. As in user.h each returns its exit code; what is killed never returns. */
#ifndef GUEST_USER_PAGED_H
#define GUEST_USER_PAGED_H

#include <stdint.h>

int user_tree(uint64_t depth);	  /* forks two children, each of which forks two ...; all change the same data */
int user_zero(uint64_t pages);	  /* new memory is zero, also where old memory was */
int user_deep(uint64_t calls);	  /* needs a few pages of stack */
int user_bottom(uint64_t unused); /* needs more than there are */
int user_readonly(uint64_t unused);
int user_noexec(uint64_t unused);
int user_spy(uint64_t address); /* reads what is the kernel's */
int user_null(uint64_t unused);
int user_patch(uint64_t unused);  /* its child changes its own code */
int user_bigfork(uint64_t pages); /* forks with a lot of memory, of which little is changed */

#endif
