/* export.h - extern names of the vls calls, and the list from which the binding makes `symbols`. */
#ifndef STACKCORE_VCL_EXPORT_H
#define STACKCORE_VCL_EXPORT_H

#include "stackcore/vcl/vcl.h"

int64_t vls_x_accept(int64_t w, int64_t fd);
int64_t vls_x_epoll_ctl(int64_t w, int64_t ep, int64_t op, int64_t fd, int64_t mask, int64_t data);
int64_t vls_x_epoll_wait(int64_t w, int64_t ep, int64_t out, int64_t max, int64_t timeout_ms);
int64_t vls_x_recv(int64_t w, int64_t fd, int64_t buf, int64_t n);
int64_t vls_x_send(int64_t w, int64_t fd, int64_t buf, int64_t n, int64_t flags);
int64_t vls_x_close(int64_t w, int64_t fd);
int64_t vls_x_count_requests(int64_t w, int64_t n);
int64_t vls_x_publish(int64_t w);
int64_t vls_x_cork(int64_t w, int64_t n);

#define VLS_SYMBOLS(S)                                                                                                  \
    S(vls_x_accept) S(vls_x_epoll_ctl) S(vls_x_epoll_wait) S(vls_x_recv) S(vls_x_send) S(vls_x_close) S(vls_x_count_requests) \
    S(vls_x_publish) S(vls_x_cork)

#endif
