/* module.c - stackcore.vcl._vcl: the app side for Python.
 *
 * `Worker` wraps a vcl_worker. Its calls return counts or raise OSError with the errno that vcl gave
 * (BlockingIOError for EAGAIN). The GIL is released while epoll_wait waits. `Worker.handle` is the
 * address that kernels pass to the vls_x_* functions in `symbols`.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "stackcore/vcl/export.h"

typedef struct {
    PyObject_HEAD
    vcl_worker worker;
    Py_buffer segment; /* keeps the mapping alive */
    bool attached;
    bool busy; /* a call runs that has let go of the GIL, or in which signal handlers run */
} WorkerObject;

static PyObject *fail(int64_t rc)
{
    errno = (int)-rc;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *number_or_fail(int64_t rc)
{
    return rc < 0 ? fail(rc) : PyLong_FromLongLong(rc);
}

static PyObject *none_or_fail(int64_t rc)
{
    if (rc < 0)
        return fail(rc);
    Py_RETURN_NONE;
}

/* The vcl_worker, or NULL with ValueError set when it is detached. */
static vcl_worker *use(PyObject *self)
{
    WorkerObject *o = (WorkerObject *)self;
    if (!o->attached) {
        PyErr_SetString(PyExc_ValueError, "this worker is detached");
        return NULL;
    }
    return &o->worker;
}

/* Before a call that lets go of the GIL: false with RuntimeError set when another one runs. */
static bool claim(PyObject *self)
{
    WorkerObject *o = (WorkerObject *)self;
    if (o->busy) {
        PyErr_SetString(PyExc_RuntimeError, "a call of this worker is running: a worker belongs to one thread at a time");
        return false;
    }
    o->busy = true;
    return true;
}

static void unclaim(PyObject *self)
{
    ((WorkerObject *)self)->busy = false;
}

static int wait_kind(const char *name)
{
    static const char *const names[] = {"spin", "adaptive", "park"};
    for (int i = 0; i < 3; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    PyErr_Format(PyExc_ValueError, "unknown wait strategy '%s': choose spin, adaptive or park", name);
    return -1;
}

static int worker_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"segment", "index", "control_fd", "doorbell", "listener", "events", "futex_lock", "wait", "spins", "table_capacity", NULL};
    WorkerObject *o = (WorkerObject *)self;
    vcl_config c = {0};
    const char *wait;
    int futex, spins;
    if (o->attached) {
        PyErr_SetString(PyExc_ValueError, "this worker is attached already");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "w*iiisspsii", names, &o->segment, &c.index, &c.control_fd, &c.doorbell, &c.listener, &c.events,
                                     &futex, &wait, &spins, &c.table_capacity))
        return -1;
    int kind = wait_kind(wait);
    if (kind >= 0) {
        /* the payload; the segment's header lies in front of it */
        c.base = (uint8_t *)o->segment.buf - sizeof(shmq_segment);
        c.size = (uint64_t)o->segment.len + sizeof(shmq_segment);
        c.futex_lock = futex;
        c.wait = shmq_wait_default((shmq_wait_kind)kind);
        if (spins >= 0)
            c.wait.spins = (uint32_t)spins;
        int rc = vcl_attach(&o->worker, &c);
        if (rc == 0) {
            o->attached = true;
            return 0;
        }
        fail(rc);
    }
    PyBuffer_Release(&o->segment);
    return -1;
}

static PyObject *worker_detach(PyObject *self, PyObject *Py_UNUSED(none))
{
    WorkerObject *o = (WorkerObject *)self;
    if (o->busy)
        return PyErr_Format(PyExc_RuntimeError, "a call of this worker is running: detach when it has returned");
    if (o->attached) {
        vcl_detach(&o->worker);
        o->attached = false;
        PyBuffer_Release(&o->segment);
    }
    Py_RETURN_NONE;
}

static void worker_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(worker_detach(self, NULL));
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *worker_child(PyObject *self, PyObject *args)
{
    vcl_worker *w = use(self);
    int index, fd;
    if (!w || !PyArg_ParseTuple(args, "ii", &index, &fd) || !claim(self))
        return NULL;
    int rc;
    Py_BEGIN_ALLOW_THREADS
    rc = vcl_child(w, index, fd);
    Py_END_ALLOW_THREADS
    unclaim(self);
    return none_or_fail(rc);
}

static PyObject *worker_parent(PyObject *self, PyObject *Py_UNUSED(none))
{
    vcl_worker *w = use(self);
    if (!w || !claim(self))
        return NULL;
    int rc;
    Py_BEGIN_ALLOW_THREADS
    rc = vcl_parent(w);
    Py_END_ALLOW_THREADS
    unclaim(self);
    return none_or_fail(rc);
}

static PyObject *worker_set_wait(PyObject *self, PyObject *args)
{
    vcl_worker *w = use(self);
    int spins;
    if (!w || !PyArg_ParseTuple(args, "i", &spins))
        return NULL;
    w->wait.spins = spins < 0 ? 0 : (uint32_t)spins;
    Py_RETURN_NONE;
}

static PyObject *worker_publish(PyObject *self, PyObject *Py_UNUSED(none))
{
    vcl_worker *w = use(self);
    if (!w)
        return NULL;
    vcl_publish(w);
    Py_RETURN_NONE;
}

static PyObject *worker_core_gone(PyObject *self, PyObject *Py_UNUSED(none))
{
    vcl_worker *w = use(self);
    return w ? PyBool_FromLong(vcl_core_gone(w)) : NULL;
}

static PyObject *worker_count_requests(PyObject *self, PyObject *arg)
{
    vcl_worker *w = use(self);
    long n = w ? PyLong_AsLong(arg) : -1;
    if (!w || (n == -1 && PyErr_Occurred()))
        return NULL;
    w->count.requests += n;
    Py_RETURN_NONE;
}

/* Methods that take one int and return one. */
#define INT_METHOD(name, call)                                   \
    static PyObject *name(PyObject *self, PyObject *arg)         \
    {                                                            \
        vcl_worker *w = use(self);                               \
        int n = w ? PyLong_AsInt_(arg) : -1;                     \
        if (!w || (n == -1 && PyErr_Occurred()))                 \
            return NULL;                                         \
        return number_or_fail(call(w, n));                       \
    }

static int PyLong_AsInt_(PyObject *arg)
{
    long n = PyLong_AsLong(arg);
    if (n > INT32_MAX || n < INT32_MIN) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_OverflowError, "number does not fit an int");
        return -1;
    }
    return (int)n;
}

INT_METHOD(worker_accept, vls_accept)

/* listen and close can wait for the core's answer, perhaps from a core in another thread of this process. */
static PyObject *waiting_call(PyObject *self, PyObject *arg, int (*call)(vcl_worker *, int))
{
    vcl_worker *w = use(self);
    int n = w ? PyLong_AsInt_(arg) : -1, rc;
    if (!w || (n == -1 && PyErr_Occurred()) || !claim(self))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    rc = call(w, n);
    Py_END_ALLOW_THREADS
    unclaim(self);
    return number_or_fail(rc);
}

static PyObject *worker_listen(PyObject *self, PyObject *arg)
{
    return waiting_call(self, arg, vls_listen);
}

static PyObject *worker_close(PyObject *self, PyObject *arg)
{
    return waiting_call(self, arg, vls_close);
}

static PyObject *worker_epoll_create(PyObject *self, PyObject *Py_UNUSED(none))
{
    vcl_worker *w = use(self);
    return w ? number_or_fail(vls_epoll_create(w)) : NULL;
}

static PyObject *worker_epoll_ctl(PyObject *self, PyObject *args)
{
    vcl_worker *w = use(self);
    int ep, op, fd;
    unsigned mask = 0;
    long long data = 0;
    if (!w || !PyArg_ParseTuple(args, "iii|IL", &ep, &op, &fd, &mask, &data))
        return NULL;
    return none_or_fail(vls_epoll_ctl(w, ep, op, fd, mask, data));
}

/* Sleeps in slices so that Ctrl-C and other signals are served. */
static int wait_in_slices(vcl_worker *w, int ep, sc_epoll_event *out, int max, long timeout_ms)
{
    int64_t stop = timeout_ms < 0 ? INT64_MAX : shmq_now_ns() + (int64_t)timeout_ms * 1000000;
    for (;;) {
        int64_t left = stop == INT64_MAX ? 50 : (stop - shmq_now_ns() + 999999) / 1000000;
        int slice = timeout_ms == 0 || left < 0 ? 0 : left > 50 ? 50 : (int)left, n;
        Py_BEGIN_ALLOW_THREADS
        n = vls_epoll_wait(w, ep, out, max, slice);
        Py_END_ALLOW_THREADS
        if (n != 0 || timeout_ms == 0 || shmq_now_ns() >= stop)
            return n;
        if (PyErr_CheckSignals() < 0)
            return -EINTR;
    }
}

static PyObject *worker_epoll_wait(PyObject *self, PyObject *args)
{
    vcl_worker *w = use(self);
    int ep, max;
    long timeout_ms;
    if (!w || !PyArg_ParseTuple(args, "iil", &ep, &max, &timeout_ms))
        return NULL;
    if (max <= 0 || max > 65536)
        return PyErr_Format(PyExc_ValueError, "max must be 1..65536, not %d", max);
    sc_epoll_event *out = PyMem_New(sc_epoll_event, max);
    if (!out)
        return PyErr_NoMemory();
    if (!claim(self)) {
        PyMem_Free(out);
        return NULL;
    }
    int n = wait_in_slices(w, ep, out, max, timeout_ms);
    unclaim(self);
    PyObject *list = n < 0 ? (PyErr_Occurred() ? NULL : fail(n)) : PyList_New(n);
    for (int i = 0; list && i < n; i++) {
        PyObject *pair = Py_BuildValue("(iI)", out[i].fd, (unsigned)out[i].events);
        if (!pair)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, pair);
    }
    PyMem_Free(out);
    return list;
}

static PyObject *worker_recv(PyObject *self, PyObject *args)
{
    vcl_worker *w = use(self);
    int fd;
    Py_ssize_t n;
    if (!w || !PyArg_ParseTuple(args, "in", &fd, &n))
        return NULL;
    if (n < 0)
        return PyErr_Format(PyExc_ValueError, "negative buffer size %zd", n);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, n);
    if (!bytes)
        return NULL;
    int64_t got = vls_recv(w, fd, PyBytes_AS_STRING(bytes), (uint64_t)n);
    if (got < 0) {
        Py_DECREF(bytes);
        return fail(got);
    }
    _PyBytes_Resize(&bytes, (Py_ssize_t)got);
    return bytes;
}

static PyObject *worker_send(PyObject *self, PyObject *args)
{
    vcl_worker *w = use(self);
    int fd, more = 0;
    Py_buffer data;
    if (!w || !PyArg_ParseTuple(args, "iy*|p", &fd, &data, &more))
        return NULL;
    int64_t put = vls_send(w, fd, data.buf, (uint64_t)data.len, more ? VCL_SEND_MORE : 0);
    PyBuffer_Release(&data);
    return number_or_fail(put);
}

static PyObject *worker_handle(PyObject *self, void *Py_UNUSED(closure))
{
    vcl_worker *w = use(self);
    return w ? PyLong_FromVoidPtr(w) : NULL;
}

static PyObject *worker_index(PyObject *self, void *Py_UNUSED(closure))
{
    vcl_worker *w = use(self);
    return w ? PyLong_FromLong(w->index) : NULL;
}

static PyMethodDef worker_methods[] = {
    {"listen", worker_listen, METH_O, "listen(port) -> fd"},
    {"accept", worker_accept, METH_O, "accept(fd) -> fd; BlockingIOError when nothing waits"},
    {"close", worker_close, METH_O, "close(fd)"},
    {"epoll_create", worker_epoll_create, METH_NOARGS, "epoll_create() -> fd"},
    {"epoll_ctl", worker_epoll_ctl, METH_VARARGS, "epoll_ctl(epfd, op, fd, mask=0, data=0)"},
    {"epoll_wait", worker_epoll_wait, METH_VARARGS, "epoll_wait(epfd, max, timeout_ms) -> [(fd, events)]; -1 waits for ever"},
    {"recv", worker_recv, METH_VARARGS, "recv(fd, n) -> bytes; b'' when the peer sends no more; BlockingIOError when empty"},
    {"send", worker_send, METH_VARARGS, "send(fd, data, more=False) -> bytes taken; BlockingIOError when full"},
    {"child", worker_child, METH_VARARGS, "child(index, control_fd): in a forked child, become that worker"},
    {"parent", worker_parent, METH_NOARGS, "parent(): all children have registered; give up what they took over"},
    {"set_spins", worker_set_wait, METH_VARARGS, "set_spins(n): busy checks before an adaptive wait yields"},
    {"publish", worker_publish, METH_NOARGS, "publish(): copy the counters to shared memory now"},
    {"core_gone", worker_core_gone, METH_NOARGS, "core_gone() -> bool"},
    {"count_requests", worker_count_requests, METH_O, "count_requests(n): add to the answered requests"},
    {"detach", worker_detach, METH_NOARGS, "detach(): release everything; the control socket stays the caller's"},
    {0},
};

static PyGetSetDef worker_getset[] = {
    {"handle", worker_handle, NULL, "address for the vls_x_* functions", NULL},
    {"index", worker_index, NULL, "worker index", NULL},
    {0},
};

static PyType_Slot worker_slots[] = {
    {Py_tp_doc, "Worker(segment, index, control_fd, doorbell, listener, events, futex_lock, wait, spins, table_capacity)\n\n"
                "One app worker on a mapped stack segment, given by its payload buffer. Not thread safe."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, worker_init},
    {Py_tp_dealloc, worker_dealloc},
    {Py_tp_methods, worker_methods},
    {Py_tp_getset, worker_getset},
    {0, NULL},
};

static PyType_Spec worker_spec = {"stackcore.vcl._vcl.Worker", sizeof(WorkerObject), 0, Py_TPFLAGS_DEFAULT, worker_slots};

static int put(PyObject *dict, const char *key, PyObject *value)
{
    int rc = value ? PyDict_SetItemString(dict, key, value) : -1;
    Py_XDECREF(value);
    return rc;
}

static int add_modes(PyObject *module)
{
    PyObject *listeners = PyDict_New(), *events = PyDict_New();
    int rc = listeners && events ? 0 : -1;
    for (const vls_ops *const *m = vls_modes; rc == 0 && *m; m++)
        rc = put(listeners, (*m)->name, Py_BuildValue("(sO)", (*m)->doc, (*m)->shared_table ? Py_True : Py_False));
    for (const vcl_event_ops *const *m = vcl_event_modes; rc == 0 && *m; m++)
        rc = put(events, (*m)->name, PyUnicode_FromString((*m)->doc));
    if (rc == 0)
        rc = PyModule_AddObjectRef(module, "listener_modes", listeners);
    if (rc == 0)
        rc = PyModule_AddObjectRef(module, "event_modes", events);
    Py_XDECREF(listeners);
    Py_XDECREF(events);
    return rc;
}

static int add_symbols(PyObject *module)
{
    PyObject *dict = PyDict_New();
#define S(name) || put(dict, #name, PyLong_FromVoidPtr((void *)name)) < 0
    int rc = (!dict VLS_SYMBOLS(S)) ? -1 : PyModule_AddObjectRef(module, "symbols", dict);
#undef S
    Py_XDECREF(dict);
    return rc;
}

static PyObject *table_bytes(PyObject *Py_UNUSED(module), PyObject *arg)
{
    long n = PyLong_AsLong(arg);
    if (n == -1 && PyErr_Occurred())
        return NULL;
    return PyLong_FromLongLong(vcl_table_bytes(n));
}

static int vcl_exec(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &worker_spec, NULL);
    int rc = type ? PyModule_AddObjectRef(module, "Worker", type) : -1;
    Py_XDECREF(type);
    if (rc < 0 || add_modes(module) < 0 || add_symbols(module) < 0)
        return -1;
    return PyModule_AddStringConstant(module, "build_hash", SHMQ_BUILD_HASH);
}

static PyMethodDef functions[] = {
    {"table_bytes", table_bytes, METH_O, "table_bytes(capacity) -> bytes of a session table of that many entries"},
    {0},
};

static PyModuleDef_Slot slots[] = {{Py_mod_exec, vcl_exec}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_vcl", .m_doc = "The app side of the stack.", .m_size = 0, .m_methods = functions, .m_slots = slots,
};

PyMODINIT_FUNC PyInit__vcl(void)
{
    return PyModuleDef_Init(&definition);
}
