/* module.h - what the files of the extension module shmq._native share. */
#ifndef SHMQ_MODULE_H
#define SHMQ_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* layout.c */
PyObject *shmq_layout(PyObject *module, PyObject *unused);

/* mapping.c */
extern PyType_Spec shmq_mapping_spec;
PyObject *shmq_py_segment_init(PyObject *module, PyObject *args);
PyObject *shmq_py_segment_check(PyObject *module, PyObject *args);
PyObject *shmq_py_segment_header(PyObject *module, PyObject *arg);
PyObject *shmq_py_pidns(PyObject *module, PyObject *unused);
PyObject *shmq_py_self_token(PyObject *module, PyObject *unused);
PyObject *shmq_py_token_alive(PyObject *module, PyObject *arg);

#endif
