/* http.c - the shape of stackcore's null transport in plain C: what its core and compiled worker are measured against.
 *
 * The parent plays N closed-loop clients at session level: it writes a GET into the session's rx fifo and a 32-byte event
 * into the ring to the child, later reads the reply from the tx fifo, compares every byte and sends the next GET. The
 * child takes events, parses request line and header lines, and writes a reply. One event per direction is outstanding
 * per session (fifo.h). Nothing else is in it: no vectors of nodes, no epoll, no session pool, no locks; the ratio
 * to it is the price of the real stack's structure and of kernels compiled by Numba.
 */
#include "bench/native/ref.h"

enum { FIFO_BYTES = 16384, DATA_EVENT = 1, ROOM_EVENT = 2 };

typedef struct {
    uint32_t kind;
    uint32_t session;
    uint64_t sequence; /* per session and direction; the receiver checks it */
    uint64_t position; /* of the slot in its ring */
    uint64_t check;
} event;

static_assert(sizeof(event) == 32, "the size of stackcore's session event");

typedef struct {
    shmq_fifo rx, tx; /* rx: clients to worker, tx: worker to clients */
    alignas(SHMQ_LINE) uint8_t rx_data[FIFO_BYTES];
    uint8_t tx_data[FIFO_BYTES];
} session;

static const char request[] = "GET /0 HTTP/1.1\r\nHost: stackcore\r\nUser-Agent: null\r\n\r\n";

enum { REQUEST_BYTES = sizeof request - 1, HEADER_BYTES = 256 };

/* One process's private view of a session. */
typedef struct {
    shmq_fifo_end in, out;
    uint64_t sent_events, seen_events;
    uint32_t left; /* child: reply bytes that did not fit yet; parent: reply bytes still to come */
} view;

typedef struct {
    shmq_producer out;
    shmq_consumer in;
    view *views;
    uint64_t staged; /* events written and not yet published */
    uint64_t wrong;
    char *reply;
    uint32_t reply_bytes;
    uint32_t batch;
} end;

static uint64_t http_bytes(const ref_options *o)
{
    if (o->size > FIFO_BYTES / 2 || o->clients * 2 > o->capacity)
        return 0;
    return 2 * ref_ring_space(o, sizeof(event)) + o->clients * sizeof(session);
}

static session *sessions_of(const ref_options *o, uint8_t *shared)
{
    return (session *)(shared + 2 * ref_ring_space(o, sizeof(event)));
}

static void http_init(const ref_options *o, uint8_t *shared)
{
    uint64_t space = ref_ring_space(o, sizeof(event));
    shmq_ring_init(shared, o->capacity, sizeof(event));
    shmq_ring_init(shared + space, o->capacity, sizeof(event));
    session *s = sessions_of(o, shared);
    for (uint32_t i = 0; i < o->clients; i++) {
        shmq_fifo_reset(&s[i].rx);
        shmq_fifo_reset(&s[i].tx);
    }
}

static void end_init(end *e, const ref_options *o, uint8_t *shared, bool parent)
{
    uint64_t space = ref_ring_space(o, sizeof(event));
    session *s = sessions_of(o, shared);
    *e = (end){.batch = o->batch};
    e->views = calloc(o->clients, sizeof *e->views);
    e->reply = malloc(HEADER_BYTES + o->size);
    if (!e->views || !e->reply)
        ref_die("not enough memory");
    e->reply_bytes = (uint32_t)snprintf(e->reply, HEADER_BYTES,
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %u\r\n\r\n", o->size);
    for (uint32_t i = 0; i < o->size; i++)
        e->reply[e->reply_bytes++] = (char)(i * 31 + 7);
    if (shmq_producer_bind(&e->out, shared + (parent ? 0 : space), space) != SHMQ_OK ||
        shmq_consumer_bind(&e->in, shared + (parent ? space : 0), space) != SHMQ_OK)
        ref_die("a ring cannot be bound");
    for (uint32_t i = 0; i < o->clients; i++) {
        shmq_fifo_bind(parent ? &e->views[i].in : &e->views[i].out, &s[i].tx, s[i].tx_data, FIFO_BYTES);
        shmq_fifo_bind(parent ? &e->views[i].out : &e->views[i].in, &s[i].rx, s[i].rx_data, FIFO_BYTES);
    }
}

/* The ring holds two events per session and direction at most, and has that many slots: there is always room. */
static void notify(end *e, uint32_t id, uint32_t kind)
{
    if (shmq_producer_room(&e->out, e->staged + 1) <= (int64_t)e->staged)
        ref_die("the event ring overflowed");
    event *slot = shmq_producer_slot(&e->out, e->staged);
    uint64_t sequence = e->views[id].sent_events++;
    *slot = (event){kind, id, sequence, e->out.tail + e->staged, (uint64_t)id ^ sequence};
    if (++e->staged == e->batch) {
        shmq_producer_publish(&e->out, e->staged);
        e->staged = 0;
    }
}

static void flush(end *e)
{
    if (e->staged)
        shmq_producer_publish(&e->out, e->staged);
    e->staged = 0;
}

/* Length of the first complete, well-formed GET in n bytes; 0: not complete yet; sets *bad when it can never be one. */
static uint32_t parse_get(const uint8_t *text, uint64_t n, bool *bad)
{
    static const char version[] = " HTTP/1.1\r\n";
    if (n < 5 + sizeof version - 1)
        return 0;
    const uint8_t *space = memcmp(text, "GET /", 5) == 0 ? memchr(text + 5, ' ', n - 5) : NULL;
    if (!space || (uint64_t)(text + n - space) < sizeof version - 1 || memcmp(space, version, sizeof version - 1) != 0) {
        *bad = true;
        return 0;
    }
    const uint8_t *line = space + sizeof version - 1;
    while (line + 2 <= text + n) {
        if (line[0] == '\r' && line[1] == '\n')
            return (uint32_t)(line + 2 - text);
        const uint8_t *eol = memchr(line, '\n', (size_t)(text + n - line));
        if (!eol)
            return 0;
        line = eol + 1;
    }
    return 0;
}

static void push_reply(end *e, uint32_t id)
{
    view *v = &e->views[id];
    uint64_t done = shmq_fifo_write(&v->out, e->reply + e->reply_bytes - v->left, v->left);
    v->left -= (uint32_t)done;
    if (done && shmq_fifo_set_event(&v->out))
        notify(e, id, DATA_EVENT);
    if (v->left && !shmq_fifo_want(&v->out, v->left))
        push_reply(e, id);
}

/* Worker: answer what lies in a session's rx fifo. */
static void serve(end *e, uint32_t id)
{
    view *v = &e->views[id];
    uint8_t copy[REQUEST_BYTES * 2];
    bool bad = false;
    shmq_fifo_clear_event(&v->in);
    uint64_t avail = shmq_fifo_avail(&v->in, UINT64_MAX);
    const uint8_t *text;
    uint64_t n = shmq_fifo_span(&v->in, 0, avail, &text);
    if (n < avail) { /* wrapped */
        n = shmq_fifo_peek(&v->in, 0, copy, sizeof copy);
        text = copy;
    }
    uint32_t used = parse_get(text, n, &bad);
    e->wrong += bad;
    if (!used)
        return;
    shmq_fifo_skip(&v->in, used);
    v->left = e->reply_bytes;
    push_reply(e, id);
}

static void ask(end *e, uint32_t id)
{
    view *v = &e->views[id];
    v->left = e->reply_bytes;
    if (shmq_fifo_write(&v->out, request, REQUEST_BYTES) != REQUEST_BYTES)
        ref_die("a request did not fit into its fifo");
    if (shmq_fifo_set_event(&v->out))
        notify(e, id, DATA_EVENT);
}

/* Client: compare what came; 1 when the reply is complete and the next request went out. */
static uint64_t collect(end *e, uint32_t id)
{
    view *v = &e->views[id];
    const uint8_t *part;
    shmq_fifo_clear_event(&v->in);
    uint64_t avail = shmq_fifo_avail(&v->in, UINT64_MAX);
    for (uint64_t n; avail && (n = shmq_fifo_span(&v->in, 0, avail, &part)); avail -= n) {
        if (n > v->left) {
            e->wrong++; /* more than was asked for */
            n = v->left;
        }
        if (!n)
            break;
        e->wrong += memcmp(part, e->reply + e->reply_bytes - v->left, n) != 0;
        v->left -= (uint32_t)n;
        shmq_fifo_skip(&v->in, n);
    }
    if (shmq_fifo_wanted(&v->in))
        notify(e, id, ROOM_EVENT);
    if (v->left)
        return 0;
    ask(e, id);
    return 1;
}

/* The events that are there, at most a frame of 256; how many. Sums the handler's results into *done. */
static int64_t dispatch(end *e, const ref_options *o, uint64_t (*handle)(end *, const event *), uint64_t *done)
{
    int64_t n = shmq_consumer_ready(&e->in, 1);
    if (n < 0)
        ref_die("a ring cursor is corrupt");
    if (n > 256)
        n = 256;
    for (int64_t i = 0; i < n; i++) {
        event ev = *(const event *)shmq_consumer_slot(&e->in, e->in.read);
        bool good = ev.session < o->clients && ev.position == e->in.read && ev.check == (ev.session ^ ev.sequence) &&
                    e->views[ev.session].seen_events++ == ev.sequence;
        e->in.read++;
        if (good)
            *done += handle(e, &ev);
        else
            e->wrong++;
    }
    if (n)
        shmq_consumer_release(&e->in, (uint64_t)n);
    flush(e);
    return n;
}

static uint64_t worker_event(end *e, const event *ev)
{
    if (ev->kind == ROOM_EVENT)
        push_reply(e, ev->session);
    else
        serve(e, ev->session);
    return 1;
}

static uint64_t client_event(end *e, const event *ev)
{
    return collect(e, ev->session);
}

static void http_child(const ref_options *o, ref_control *control, uint8_t *shared)
{
    end e;
    uint64_t served = 0;
    uint32_t spins = 0;
    end_init(&e, o, shared, false);
    atomic_store_explicit(&control->ready, 1, memory_order_release);
    while (!atomic_load_explicit(&control->stop, memory_order_acquire))
        if (!dispatch(&e, o, worker_event, &served))
            ref_idle(o, &spins);
    atomic_store_explicit(&control->wrong, e.wrong, memory_order_release);
}

static ref_result http_parent(const ref_options *o, ref_control *control, uint8_t *shared)
{
    (void)control;
    end e;
    ref_result result = {0};
    uint64_t done = 0, before = 0;
    uint32_t spins = 0;
    end_init(&e, o, shared, true);
    ref_clock clock = ref_clock_start(o);
    int64_t from = 0;
    for (uint32_t i = 0; i < o->clients; i++)
        ask(&e, i);
    flush(&e);
    for (uint32_t cycles = 0;; cycles++) {
        if (cycles % 256 == 0) {
            int64_t now = shmq_now_ns();
            if (!from && now >= clock.from)
                from = now, before = done;
            if (now >= clock.until || (clock.limit && done - before >= clock.limit)) {
                result.operations = done - before;
                result.ns = now - from;
                break;
            }
            if (cycles % (1u << 16) == 0)
                ref_check_child();
        }
        if (!dispatch(&e, o, client_event, &done))
            ref_idle(o, &spins);
    }
    result.wrong = e.wrong;
    result.checked = done * e.reply_bytes;
    return result;
}

const ref_mode ref_http = {"http", http_bytes, http_init, http_child, http_parent};
