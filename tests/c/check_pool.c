/* check_pool.c - the thread pool: every item exactly once, nested and competing calls, cancelling, forking, many short jobs. An argument is how many seconds to go on. */
#include "guard.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/pool.h"

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#ifndef UNDER_TSAN
#define UNDER_TSAN 0
#endif

enum { MOST_ITEMS = 2000, MOST_THREADS = 8 };

typedef struct tally {
    atomic_int done[MOST_ITEMS];
    atomic_int inside[DN_MAX_THREADS];
    int plain[MOST_ITEMS]; /* written without atomics: a lost hand-over is a data race */
    int threads, spin, nested;
    atomic_int wrong;
} tally;

static void spin_for(int microseconds) {
    int64_t end = dn_clock_ns() + 1000 * (int64_t)microseconds;
    while (dn_clock_ns() < end) continue;
}

static void add_one(void *context, size_t item, int worker) {
    (void)worker;
    atomic_fetch_add((atomic_int *)context, (int)item + 1);
}

static void mark(void *context, size_t item, int worker) {
    tally *t = context;
    if (worker < 0 || worker >= t->threads) {
        atomic_fetch_add(&t->wrong, 1);
        return;
    }
    if (atomic_exchange(&t->inside[worker], 1)) atomic_fetch_add(&t->wrong, 1); /* scratch memory of a worker is its own */
    atomic_fetch_add(&t->done[item], 1);
    t->plain[item] += 1 + (int)item;
    if (t->spin) spin_for(t->spin);
    if (t->nested) {
        atomic_int sum = 0;
        if (dn_pool_run(t->threads, 10, add_one, &sum, NULL) != DN_OK || sum != 55) atomic_fetch_add(&t->wrong, 1);
    }
    atomic_store(&t->inside[worker], 0);
}

static void run_and_check(tally *t, int threads, size_t items, int spin, int nested) {
    memset(t, 0, sizeof *t);
    t->threads = threads, t->spin = spin, t->nested = nested;
    dn_status status = dn_pool_run(threads, items, mark, t, NULL);
    CHECK(status == DN_OK, "status %d", (int)status);
    CHECK(t->wrong == 0, "%d wrong workers", t->wrong);
    for (size_t i = 0; i < MOST_ITEMS; i++) {
        int want = i < items;
        CHECK(t->done[i] == want && t->plain[i] == want * (1 + (int)i), "%d threads, %zu items: item %zu done %d times", threads, items, i, t->done[i]);
    }
}

static void each_item_once(tally *t) {
    static const size_t sizes[] = {0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 1000, MOST_ITEMS};
    for (int threads = 1; threads <= MOST_THREADS; threads++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) run_and_check(t, threads, sizes[i], 0, 0);
    for (int threads = MOST_THREADS; threads >= 1; threads--) run_and_check(t, threads, 17, 20, 0);
}

static void nested_calls(tally *t) {
    for (int threads = 1; threads <= MOST_THREADS; threads++) run_and_check(t, threads, 100, 0, 1);
}

static void *compete(void *argument) {
    tally *t = malloc(sizeof *t);
    if (!t) abort();
    for (int i = 0; i < 50; i++) run_and_check(t, 1 + (i + *(int *)argument) % MOST_THREADS, (size_t)(i * 7), 0, 0);
    free(t);
    return NULL;
}

static void competing_callers(void) {
    enum { CALLERS = 4 };
    pthread_t callers[CALLERS];
    int start[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        start[i] = i;
        if (pthread_create(&callers[i], NULL, compete, &start[i])) abort();
    }
    for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);
}

typedef struct asked {
    int times, stop_at;
    pthread_t caller;
    int elsewhere;
} asked;

static int ask(void *context) {
    asked *a = context;
    if (!pthread_equal(a->caller, pthread_self())) a->elsewhere++;
    return ++a->times == a->stop_at;
}

static void poll_cancels(tally *t) {
    for (int threads = 1; threads <= 4; threads++) {
        for (int stop_at = 0; stop_at <= 2; stop_at++) {
            size_t items = stop_at ? MOST_ITEMS : 60;
            asked a = {.stop_at = stop_at, .caller = pthread_self()};
            dn_poll poll = {ask, &a};
            memset(t, 0, sizeof *t);
            t->threads = threads, t->spin = 1000;
            dn_status status = dn_pool_run(threads, items, mark, t, &poll);
            size_t once = 0;
            for (size_t i = 0; i < items; i++) {
                CHECK(t->done[i] <= 1, "item %zu done %d times", i, t->done[i]);
                once += t->done[i] == 1;
            }
            CHECK(a.elsewhere == 0, "the poll was asked by a worker");
            if (stop_at == 0) {
                CHECK(status == DN_OK && once == items, "status %d, %zu of %zu items", (int)status, once, items);
            } else {
                CHECK(status == DN_EINTERRUPTED && a.times == stop_at && once < items, "status %d, %d asks, %zu items", (int)status, a.times, once);
            }
            run_and_check(t, threads, 100, 0, 0); /* usable afterwards */
        }
    }
}

static void fork_after_warm_pool(tally *t) {
    run_and_check(t, 4, 100, 0, 0);
    for (int i = 0; i < 200; i++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            alarm(60);
            guard_failures = 0;
            run_and_check(t, 1 + i % 4, 100, 0, i % 7 == 0);
            run_and_check(t, 3, 50, 0, 0);
            _exit(guard_failures != 0);
        }
        CHECK(child > 0, "fork %d", i);
        if (i % 10 == 0) run_and_check(t, 4, 30, 0, 0);
        int code = -1;
        waitpid(child, &code, 0);
        CHECK(WIFEXITED(code) && WEXITSTATUS(code) == 0, "child %d ended with %d", i, code);
    }
    run_and_check(t, 4, 100, 0, 0);
}

static void many_short_jobs(int jobs) {
    for (int i = 0; i < jobs; i++) {
        atomic_int sum = 0;
        dn_status status = dn_pool_run(1 + i % 4, 4, add_one, &sum, NULL);
        CHECK(status == DN_OK && sum == 10, "job %d: status %d, sum %d", i, (int)status, sum);
        if (i % 100 == 0) spin_for(100); /* let the workers fall asleep now and then */
    }
}

int main(int count, char **arguments) {
    int seconds = count > 1 ? atoi(arguments[1]) : 0;
    int64_t end = dn_clock_ns() + seconds * (int64_t)1000000000;
    tally *t = malloc(sizeof *t);
    if (!t) return 2;
    alarm(300); /* a hang is a failure */
    do {
        each_item_once(t);
        nested_calls(t);
        competing_callers();
        poll_cancels(t);
        if (!UNDER_TSAN) fork_after_warm_pool(t); /* TSan does not follow threads into a child */
        many_short_jobs(2000);
    } while (dn_clock_ns() < end);
    tally *many = calloc(1, sizeof *many);
    if (!many) return 2;
    many->threads = DN_MAX_THREADS;
    CHECK(dn_pool_run(DN_MAX_THREADS + 5, MOST_ITEMS, mark, many, NULL) == DN_OK, "more threads than there may be");
    CHECK(many->wrong == 0, "%d wrong workers", many->wrong);
    free(many);
    free(t);
    return guard_finish("pool");
}
