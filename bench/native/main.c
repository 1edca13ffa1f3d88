/* main.c - options, the two processes, the result as JSON. See ref.h for what is promised. */
#define _GNU_SOURCE /* CPU affinity */
#include "bench/native/ref.h"

#include <getopt.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static pid_t child_pid;

void ref_die(const char *sentence)
{
    fprintf(stderr, "shmq-ref: %s\n", sentence);
    if (child_pid > 0)
        kill(child_pid, SIGKILL);
    exit(2);
}

void ref_check_child(void)
{
    if (waitpid(child_pid, NULL, WNOHANG) != 0) {
        child_pid = 0;
        ref_die("the second process died");
    }
}

ref_clock ref_clock_start(const ref_options *o)
{
    int64_t now = shmq_now_ns(), length = (int64_t)(o->seconds * 1e9);
    ref_clock clock = {.start = now, .from = now + length / 10, .until = now + length / 10 + length, .limit = o->count};
    if (o->count)
        clock.from = now, clock.until = INT64_MAX;
    return clock;
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        ref_die("cannot pin to a CPU given by --cpus; see the allowed ones with 'taskset -p $$'");
}

/* The first two CPUs this process may use; the same one twice when there is only one. */
static void default_cpus(int cpu[2])
{
    cpu_set_t set;
    int found = 0;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        ref_die("cannot read the CPU affinity");
    for (int i = 0; i < CPU_SETSIZE && found < 2; i++)
        if (CPU_ISSET(i, &set))
            cpu[found++] = i;
    if (found == 1)
        cpu[1] = cpu[0];
}

static double number(const char *text, double low, double high, const char *complaint)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= low && value <= high))
        ref_die(complaint);
    return value;
}

static const char usage[] =
    "usage: shmq-ref [--mode stream|pingpong|http] [--seconds S | --count N] [--size BYTES]\n"
    "                [--batch N] [--capacity SLOTS] [--clients N] [--cpus A,B]\n";

static const ref_mode *parse(int argc, char **argv, ref_options *o)
{
    static const struct option names[] = {
        {"mode", 1, 0, 'm'}, {"seconds", 1, 0, 's'}, {"count", 1, 0, 'n'}, {"size", 1, 0, 'b'}, {"batch", 1, 0, 'k'},
        {"capacity", 1, 0, 'c'}, {"clients", 1, 0, 'j'}, {"cpus", 1, 0, 'p'}, {"help", 0, 0, 'h'}, {0, 0, 0, 0},
    };
    static const ref_mode *const modes[] = {&ref_stream, &ref_pingpong, &ref_http};
    const ref_mode *mode = &ref_stream;
    bool sized = false, batched = false;
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (c) {
        case 'm':
            mode = NULL;
            for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
                if (strcmp(optarg, modes[i]->name) == 0)
                    mode = modes[i];
            if (!mode)
                ref_die("--mode is one of stream, pingpong, http");
            break;
        case 's': o->seconds = number(optarg, 0.001, 3600, "--seconds is between 0.001 and 3600"); break;
        case 'n': o->count = (uint64_t)number(optarg, 1, 1e15, "--count is at least 1"); break;
        case 'b': o->size = (uint32_t)number(optarg, 0, 1 << 20, "--size is between 0 and 1048576 bytes"); sized = true; break;
        case 'k': o->batch = (uint32_t)number(optarg, 1, 1 << 16, "--batch is between 1 and 65536"); batched = true; break;
        case 'c': o->capacity = (uint32_t)number(optarg, 2, 1 << 20, "--capacity is between 2 and 1048576 slots"); break;
        case 'j': o->clients = (uint32_t)number(optarg, 1, 65536, "--clients is between 1 and 65536"); break;
        case 'p':
            if (sscanf(optarg, "%d,%d", &o->cpu[0], &o->cpu[1]) != 2 || o->cpu[0] < 0 || o->cpu[1] < 0 ||
                o->cpu[0] >= CPU_SETSIZE || o->cpu[1] >= CPU_SETSIZE)
                ref_die("--cpus takes two CPU numbers, for example 0,1");
            break;
        case 'h': fputs(usage, stdout); exit(0);
        default: fputs(usage, stderr); exit(2);
        }
    }
    if (optind < argc)
        ref_die("takes options only; see --help");
    if (!sized)
        o->size = mode == &ref_http ? 0 : 32;
    if (!batched)
        o->batch = mode == &ref_http ? 8 : 1;
    if (!shmq_is_pow2(o->capacity) || o->batch > o->capacity)
        ref_die("--capacity is a power of two and at least --batch");
    return mode;
}

static void print(const ref_mode *mode, const ref_options *o, const ref_result *r)
{
    printf("{\"mode\": \"%s\", \"operations\": %llu, \"seconds\": %.9f, \"per_second\": %.1f, \"ns\": %.3f, \"p50_ns\": %.3f, "
           "\"size\": %u, \"batch\": %u, \"capacity\": %u, \"clients\": %u, \"cpus\": [%d, %d], \"checked\": %llu, "
           "\"wrong\": %llu}\n",
           mode->name, (unsigned long long)r->operations, r->ns / 1e9, r->operations / (r->ns / 1e9),
           (double)r->ns / r->operations, r->p50_ns, o->size, o->batch, o->capacity, o->clients, o->cpu[0], o->cpu[1],
           (unsigned long long)r->checked, (unsigned long long)r->wrong);
}

int main(int argc, char **argv)
{
    ref_options o = {.seconds = 0.2, .capacity = 1024, .clients = 64};
    default_cpus(o.cpu);
    const ref_mode *mode = parse(argc, argv, &o);
    uint64_t bytes = mode->bytes(&o);
    if (!bytes)
        ref_die("these sizes do not fit: the record must hold 8 bytes, a reply half a fifo of 16 KB");
    uint8_t *shared = mmap(NULL, sizeof(ref_control) + bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        ref_die("not enough memory");
    ref_control *control = (ref_control *)shared;
    mode->init(&o, shared + sizeof *control);
    pid_t parent = getpid();
    pin(o.cpu[1]); /* a CPU that is not allowed is found before there are two processes to complain */
    pin(o.cpu[0]);
    child_pid = fork();
    if (child_pid < 0)
        ref_die("cannot fork");
    if (child_pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(2);
        pin(o.cpu[1]);
        mode->child(&o, control, shared + sizeof *control);
        _exit(0);
    }
    while (!atomic_load_explicit(&control->ready, memory_order_acquire)) {
        ref_check_child();
        sched_yield();
    }
    ref_result result = mode->parent(&o, control, shared + sizeof *control);
    atomic_store_explicit(&control->stop, 1, memory_order_release);
    int status = 0;
    if (waitpid(child_pid, &status, 0) < 0 || status != 0)
        ref_die("the second process failed");
    result.wrong += atomic_load_explicit(&control->wrong, memory_order_acquire);
    print(mode, &o, &result);
    return result.wrong ? 1 : 0;
}
