#include "job.h"
#include "lab5.h"
#include "record.h"
#include "virtio_state.h"
#define W __attribute__((weak))
W void virtio_state(struct virtio_dev *d, struct state_io *io) { (void)d; (void)io; }
W int virtio_settle(struct vm *vm) { (void)vm; return 0; }
W void virtio_unsettle(struct vm *vm) { (void)vm; }
W void virtio_loaded(struct vm *vm) { (void)vm; }
W int record_create(struct migration *m) { (void)m; return 0; }
W int record_accept(struct migration *m) { return section_write(&m->stream, MSG_ACCEPT, 0, NULL, 0); }
W int record_open(struct migration *m, const void *p, size_t n) { (void)m; (void)p; (void)n; return 0; }
W void record_close(struct migration *m) { (void)m; }
W int record_commit(struct migration *m) { (void)m; return -ENOENT; }
W int record_take(struct migration *m) { (void)m; return -ENOENT; }
W int migration_ask(struct migration *m) { (void)m; return NEWS_SILENCE; }
W int migration_await(struct migration *m, bool c) { (void)m; (void)c; return -ETIMEDOUT; }
W int uffd_start(struct migration *m) { (void)m; return -1; }
W void uffd_stop(struct migration *m) { (void)m; }
W void postcopy_follow(struct migration *m) { (void)m; }
W void postcopy_serve(struct migration *m) { (void)m; }
W void job_again(struct vm *vm, const char *a, FILE *o) { (void)vm; (void)a; (void)o; }
W void cpuid_table_io(struct cpuid_table *t, struct state_io *io) { (void)t; (void)io; }
W int kvm_piece_take(struct kvm_cpu *c, enum kvm_piece p, struct kvm_cpu_state *s) { (void)c; (void)p; (void)s; return 0; }
W int kvm_piece_put(struct kvm_cpu *c, enum kvm_piece p, const struct kvm_cpu_state *s) { (void)c; (void)p; (void)s; return 0; }
