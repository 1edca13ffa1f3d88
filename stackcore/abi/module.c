/* module.c - stackcore.abi._abi: the layout of abi.h for Python, and the calls kernels make on it.
 *
 * `records`   {name: (size, stride, [(field, typecode, offset, count, writer, meaning), ...])}
 * `constants` {name: value}
 * `symbols`   {name: address} of the extern functions below, for kernels and ctypes
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "stackcore/abi/abi.h"

/* ---- functions for kernels: integers and addresses as int64 only ---- */

int64_t sc_x_event_put(int64_t producer, int64_t unpublished, int64_t type, int64_t worker, int64_t session, int64_t generation, int64_t seq, int64_t arg)
{
    return sc_event_put((shmq_producer *)producer, (uint64_t)unpublished, (int)type, (int)worker, (int32_t)session, (int32_t)generation,
                        (int32_t)seq, (int32_t)arg);
}

/* Bind the core's ends of an empty ring from the core's own knowledge: the header is writable by others. */
int64_t sc_x_bind_producer(int64_t producer, int64_t ring, int64_t slots, int64_t slot_size)
{
    *(shmq_producer *)producer = (shmq_producer){.ring = (shmq_ring *)ring, .slots = (uint8_t *)ring + sizeof(shmq_ring),
                                                 .mask = (uint64_t)slots - 1, .slot_size = (uint32_t)slot_size, .efd = -1};
    return 0;
}

int64_t sc_x_bind_consumer(int64_t consumer, int64_t ring, int64_t slots, int64_t slot_size)
{
    *(shmq_consumer *)consumer = (shmq_consumer){.ring = (shmq_ring *)ring, .slots = (uint8_t *)ring + sizeof(shmq_ring),
                                                 .mask = (uint64_t)slots - 1, .slot_size = (uint32_t)slot_size, .efd = -1};
    return 0;
}

/* Publish n events and wake the consumer if it sleeps. */
int64_t sc_x_event_publish(int64_t producer, int64_t n)
{
    shmq_producer *p = (shmq_producer *)producer;
    shmq_producer_publish(p, (uint64_t)n);
    return shmq_ring_wake_consumer(p);
}

/* Ask for `count` cache lines, `stride` bytes apart; any address will do. */
int64_t sc_x_prefetch(int64_t at, int64_t count, int64_t stride)
{
    for (int64_t i = 0; i < count; i++)
        __builtin_prefetch((const uint8_t *)at + i * stride, 1);
    return 0;
}

/* The other process wrote these lines last: ask for the fifo's header and the bytes at the own cursor while
 * there is other work to do. write: this end is going to change the header and the bytes. */
int64_t sc_x_prefetch_end(int64_t end, int64_t write)
{
    const shmq_fifo_end *e = (const shmq_fifo_end *)end;
    const uint8_t *data = e->data + (e->pos & e->mask);
    if (write) {
        __builtin_prefetch(&e->fifo->tail, 1);
        __builtin_prefetch(data, 1);
    } else {
        __builtin_prefetch(&e->fifo->tail, 1); /* the event flag beside it is cleared */
        __builtin_prefetch(data, 0);
        __builtin_prefetch(data + 64, 0);
    }
    return 0;
}

/* Copy the event at ring position pos to *out; 1 when its check word and position are right. */
int64_t sc_x_event_read(int64_t consumer, int64_t pos, int64_t out)
{
    sc_event *e = (sc_event *)out;
    memcpy(e, shmq_consumer_slot((shmq_consumer *)consumer, (uint64_t)pos), sizeof *e);
    return e->pos == pos && e->check == sc_event_check(e);
}

int64_t sc_x_load32(int64_t field)
{
    return __atomic_load_n((int32_t *)field, __ATOMIC_ACQUIRE);
}

int64_t sc_x_store32(int64_t field, int64_t value)
{
    __atomic_store_n((int32_t *)field, (int32_t)value, __ATOMIC_RELEASE);
    return 0;
}

int64_t sc_x_load64(int64_t field)
{
    return __atomic_load_n((int64_t *)field, __ATOMIC_ACQUIRE);
}

int64_t sc_x_store64(int64_t field, int64_t value)
{
    __atomic_store_n((int64_t *)field, value, __ATOMIC_RELEASE);
    return 0;
}

/* Answer a worker's request: the value first, then the sequence number (pairs with vcl_request). */
int64_t sc_x_reply(int64_t worker, int64_t value)
{
    sc_worker *w = (sc_worker *)worker;
    SC_STORE(w->reply, value);
    SC_STORE_RELEASE(w->reply_seq, w->reply_seq + 1);
    return 0;
}

/* Burn ns of CPU: the application's own work (--work). */
int64_t sc_x_busy(int64_t ns)
{
    int64_t stop = shmq_now_ns() + ns;
    while (shmq_now_ns() < stop)
        shmq_relax();
    return 0;
}

/* The core goes to sleep on its doorbell: announce, look once more, select; then clear. */
int64_t sc_x_cell_announce(int64_t cell)
{
    shmq_cell_announce((shmq_cell *)cell, SHMQ_PARKED_EVENTFD);
    return 0;
}

int64_t sc_x_cell_clear(int64_t cell)
{
    shmq_cell_clear((shmq_cell *)cell);
    return 0;
}

#define SC_SYMBOLS(S) \
    S(sc_x_bind_producer) S(sc_x_bind_consumer) S(sc_x_cell_announce) S(sc_x_cell_clear) \
    S(sc_x_event_put) S(sc_x_event_publish) S(sc_x_prefetch) S(sc_x_prefetch_end) S(sc_x_event_read) S(sc_x_load32) S(sc_x_store32) S(sc_x_load64) S(sc_x_store64) S(sc_x_reply) S(sc_x_busy)

/* ---- the description ---- */

#define SC_TYPECODE(type) _Generic((type)0, int64_t: "i8", int32_t: "i4", int16_t: "i2")

typedef struct {
    const char *record, *name, *typecode, *writer, *meaning;
    size_t offset, count;
} field_info;

#define SC_F(type, name, writer, meaning) {RECORD_NAME, #name, SC_TYPECODE(type), #writer, meaning, offsetof(RECORD, name), 0},
#define SC_A(type, name, count, writer, meaning) {RECORD_NAME, #name, SC_TYPECODE(type), #writer, meaning, offsetof(RECORD, name), count},

static const field_info fields[] = {
#define RECORD sc_event
#define RECORD_NAME "sc_event"
    SC_EVENT_FIELDS(SC_F, SC_A)
#undef RECORD
#undef RECORD_NAME
#define RECORD sc_stack
#define RECORD_NAME "sc_stack"
    SC_STACK_FIELDS(SC_F, SC_A)
#undef RECORD
#undef RECORD_NAME
#define RECORD sc_telemetry
#define RECORD_NAME "sc_telemetry"
    SC_TELEMETRY_FIELDS(SC_F, SC_A)
#undef RECORD
#undef RECORD_NAME
#define RECORD sc_worker
#define RECORD_NAME "sc_worker"
    SC_WORKER_FIELDS(SC_F, SC_A)
#undef RECORD
#undef RECORD_NAME
#define RECORD sc_listener
#define RECORD_NAME "sc_listener"
    SC_LISTENER_FIELDS(SC_F, SC_A)
#undef RECORD
#undef RECORD_NAME
#define RECORD sc_session
#define RECORD_NAME "sc_session"
    SC_SESSION_FIELDS(SC_F, SC_A)
#undef RECORD
#undef RECORD_NAME
#define RECORD sc_pending
#define RECORD_NAME "sc_pending"
    SC_PENDING_FIELDS(SC_F, SC_A)
#undef RECORD
#undef RECORD_NAME
#define RECORD sc_epoll_event
#define RECORD_NAME "sc_epoll_event"
    SC_EPOLL_EVENT_FIELDS(SC_F, SC_A)
#undef RECORD
#undef RECORD_NAME
};

typedef struct {
    const char *name;
    size_t size, stride;
} record_info;

static const record_info records[] = {
#define SC_R(record, list) {#record, sizeof(record), SC_STRIDE(record)},
    SC_RECORDS(SC_R)
#undef SC_R
};

static PyObject *fields_of(const char *record)
{
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < sizeof fields / sizeof *fields; i++) {
        const field_info *f = &fields[i];
        if (strcmp(f->record, record) != 0)
            continue;
        PyObject *item = Py_BuildValue("(ssnnss)", f->name, f->typecode, (Py_ssize_t)f->offset, (Py_ssize_t)f->count, f->writer, f->meaning);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

/* Adds a new reference's value under key; steals it. */
static int put(PyObject *dict, const char *key, PyObject *value)
{
    int rc = value ? PyDict_SetItemString(dict, key, value) : -1;
    Py_XDECREF(value);
    return rc;
}

static int add_records(PyObject *dict)
{
    for (size_t i = 0; i < sizeof records / sizeof *records; i++) {
        PyObject *list = fields_of(records[i].name);
        if (!list || put(dict, records[i].name, Py_BuildValue("(nnN)", (Py_ssize_t)records[i].size, (Py_ssize_t)records[i].stride, list)) < 0)
            return -1;
    }
    return 0;
}

static int add_constants(PyObject *dict)
{
#define SC_C(name, value) || put(dict, #name, PyLong_FromLong(value)) < 0
    return (put(dict, "ABI_VERSION", PyLong_FromLong(SC_ABI_VERSION)) < 0 || put(dict, "MAX_WORKERS", PyLong_FromLong(SC_MAX_WORKERS)) < 0 ||
            put(dict, "MAX_LISTENERS", PyLong_FromLong(SC_MAX_LISTENERS)) < 0 || put(dict, "LINE", PyLong_FromLong(SHMQ_LINE)) < 0
                SC_CONSTANTS(SC_C)) ? -1 : 0;
#undef SC_C
}

static int add_symbols(PyObject *dict)
{
#define S(name) || put(dict, #name, PyLong_FromVoidPtr((void *)name)) < 0
    return (0 SC_SYMBOLS(S)) ? -1 : 0;
#undef S
}

static int add_dict(PyObject *module, const char *name, int (*fill)(PyObject *))
{
    PyObject *dict = PyDict_New();
    int rc = dict && fill(dict) == 0 ? PyModule_AddObjectRef(module, name, dict) : -1;
    Py_XDECREF(dict);
    return rc;
}

static int abi_exec(PyObject *module)
{
    if (add_dict(module, "records", add_records) < 0 || add_dict(module, "constants", add_constants) < 0 ||
        add_dict(module, "symbols", add_symbols) < 0)
        return -1;
    return PyModule_AddStringConstant(module, "build_hash", SHMQ_BUILD_HASH);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, abi_exec}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_abi", .m_doc = "Layout of the shared records (abi.h).", .m_size = 0, .m_slots = slots,
};

PyMODINIT_FUNC PyInit__abi(void)
{
    return PyModuleDef_Init(&definition);
}
