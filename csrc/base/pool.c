/* pool.c - workers spin for a while, then sleep on a condition variable; a child of fork starts with none.
 *
 * A job is published by bumping `generation`; a worker that sees a new generation claims items from the shared counter until none is left, then reports itself done.
 * The caller waits for every worker that joined, so a job's memory never outlives the call. */
#define _GNU_SOURCE
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/fpenv.h"
#include "base/status.h"

#if defined(__x86_64__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() ((void)0)
#endif

enum { SPIN_NS = 50000, POLL_NS = 5000000 };

typedef struct job {
    dn_task *task;
    void *context;
    size_t items;
} job;

static struct {
    pthread_mutex_t lock; /* guards growth, sleeping and the condition variable */
    pthread_cond_t wake;
    atomic_bool busy; /* one job at a time; a second caller works alone */
    int started;      /* workers alive; changed only by the thread that holds `busy` */
    atomic_int sleeping;
    job job;
    _Alignas(64) atomic_uint generation; /* bumped to publish a job */
    _Alignas(64) atomic_size_t next;     /* first item not yet claimed */
    _Alignas(64) atomic_int wanted;      /* workers still welcome to join the current job */
    _Alignas(64) atomic_int left;        /* workers that have yet to acknowledge the current job */
    atomic_bool cancel;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static void work(int worker) {
    const job j = pool.job;
    for (;;) {
        size_t item = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed);
        if (item >= j.items || atomic_load_explicit(&pool.cancel, memory_order_relaxed)) return;
        j.task(j.context, item, worker);
    }
}

static unsigned await_generation(unsigned seen) {
    int64_t give_up = dn_clock_ns() + SPIN_NS;
    for (unsigned spins = 1;; spins++) {
        unsigned now = atomic_load_explicit(&pool.generation, memory_order_acquire);
        if (now != seen) return now;
        RELAX();
        if (spins % 64 == 0 && dn_clock_ns() > give_up) break;
    }
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.sleeping, 1);
    while (atomic_load(&pool.generation) == seen) pthread_cond_wait(&pool.wake, &pool.lock);
    atomic_fetch_sub(&pool.sleeping, 1);
    pthread_mutex_unlock(&pool.lock);
    return atomic_load(&pool.generation);
}

/* Every started worker acknowledges every job, whether or not it was welcome, so `left` can be counted without races. */
static void *worker_main(void *argument) {
    (void)dn_fpenv_enter();
    unsigned seen = (unsigned)(uintptr_t)argument; /* jobs published before this worker existed are not its own */
    for (;;) {
        seen = await_generation(seen);
        int ticket = atomic_fetch_sub_explicit(&pool.wanted, 1, memory_order_acq_rel);
        if (ticket > 0) work(ticket);
        atomic_fetch_sub_explicit(&pool.left, 1, memory_order_release);
    }
    return NULL;
}

/* In a forked child the workers are gone; forget them, join nothing, destroy nothing. */
static void reset_in_child(void) {
    pool.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    pool.wake = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    pool.started = 0;
    atomic_store(&pool.busy, false);
    atomic_store(&pool.sleeping, 0);
    atomic_store(&pool.generation, 0);
}

static void install_fork_handler(void) { pthread_atfork(NULL, NULL, reset_in_child); }

static void grow(int workers) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install_fork_handler);
    while (pool.started < workers) {
        pthread_t thread;
        pthread_attr_t attributes;
        if (pthread_attr_init(&attributes)) return;
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        int failed = pthread_create(&thread, &attributes, worker_main, (void *)(uintptr_t)atomic_load(&pool.generation));
        pthread_attr_destroy(&attributes);
        if (failed) return;
        pool.started++;
    }
}

static dn_status run_alone(size_t items, dn_task *task, void *context, const dn_poll *poll) {
    int64_t next_poll = poll ? dn_clock_ns() + POLL_NS : 0;
    for (size_t item = 0; item < items; item++) {
        task(context, item, 0);
        if (poll && dn_clock_ns() >= next_poll) {
            if (poll->ask(poll->context)) return DN_EINTERRUPTED;
            next_poll = dn_clock_ns() + POLL_NS;
        }
    }
    return DN_OK;
}

/* The caller's share of a job: like work(), but asks the poll now and then. */
static dn_status work_and_poll(const dn_poll *poll) {
    dn_status status = DN_OK;
    int64_t next_poll = poll ? dn_clock_ns() + POLL_NS : 0;
    for (;;) {
        size_t item = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed);
        if (item >= pool.job.items) return status;
        pool.job.task(pool.job.context, item, 0);
        if (poll && dn_clock_ns() >= next_poll) {
            if (poll->ask(poll->context)) {
                atomic_store(&pool.cancel, true);
                return DN_EINTERRUPTED;
            }
            next_poll = dn_clock_ns() + POLL_NS;
        }
    }
}

static void publish(int helpers, size_t items, dn_task *task, void *context) {
    pool.job = (job){task, context, items};
    atomic_store_explicit(&pool.next, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.cancel, false, memory_order_relaxed);
    atomic_store_explicit(&pool.wanted, helpers, memory_order_relaxed);
    atomic_store_explicit(&pool.left, pool.started, memory_order_relaxed);
    unsigned next = atomic_load(&pool.generation) + 1;
    atomic_store(&pool.generation, next ? next : 1);
    if (atomic_load(&pool.sleeping) > 0) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.lock);
    }
}

dn_status dn_pool_run(int threads, size_t items, dn_task *task, void *context, const dn_poll *poll) {
    if (threads > DN_MAX_THREADS) threads = DN_MAX_THREADS;
    if (threads <= 1 || items <= 1) return run_alone(items, task, context, poll);
    if (atomic_exchange_explicit(&pool.busy, true, memory_order_acquire)) return run_alone(items, task, context, poll);
    if (pool.started < threads - 1) grow(threads - 1);
    if (pool.started == 0) {
        atomic_store_explicit(&pool.busy, false, memory_order_release);
        return run_alone(items, task, context, poll);
    }
    publish(threads - 1, items, task, context);
    dn_status status = work_and_poll(poll);
    for (unsigned spins = 1; atomic_load_explicit(&pool.left, memory_order_acquire) > 0; spins++) {
        RELAX();
        if (spins % 1024 == 0) sched_yield();
    }
    atomic_store_explicit(&pool.busy, false, memory_order_release);
    return status;
}
