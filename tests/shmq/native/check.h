/* check.h - the little that the native tests need: assertions that stay in release builds, a watchdog, threads. */
#ifndef CHECK_H
#define CHECK_H

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                                    \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static void watchdog(int signal_number)
{
    (void)signal_number;
    static const char text[] = "hangs: a wake-up was lost\n";
    (void)!write(2, text, sizeof text - 1);
    _exit(3);
}

/* A lost wake-up is a hang here, because nothing polls: seconds until that is called a failure. */
static inline void arm_watchdog(unsigned seconds)
{
    signal(SIGALRM, watchdog);
    alarm(seconds);
}

static inline pthread_t start(void *(*work)(void *), void *arg)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, work, arg) == 0);
    return thread;
}

static inline void finish(pthread_t thread)
{
    CHECK(pthread_join(thread, NULL) == 0);
}

/* xorshift64: the same numbers in every run */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

static inline void *lines(uint64_t bytes)
{
    void *at = NULL;
    CHECK(posix_memalign(&at, 128, bytes) == 0);
    memset(at, 0, bytes);
    return at;
}

#endif
