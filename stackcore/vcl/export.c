/* export.c - the vls calls for kernels and ctypes: integers and addresses as int64 only. */
#include "stackcore/vcl/export.h"

int64_t vls_x_accept(int64_t w, int64_t fd)
{
    return vls_accept((vcl_worker *)w, (int)fd);
}

int64_t vls_x_epoll_ctl(int64_t w, int64_t ep, int64_t op, int64_t fd, int64_t mask, int64_t data)
{
    return vls_epoll_ctl((vcl_worker *)w, (int)ep, (int)op, (int)fd, (uint32_t)mask, data);
}

int64_t vls_x_epoll_wait(int64_t w, int64_t ep, int64_t out, int64_t max, int64_t timeout_ms)
{
    return vls_epoll_wait((vcl_worker *)w, (int)ep, (sc_epoll_event *)out, (int)max, (int)timeout_ms);
}

int64_t vls_x_recv(int64_t w, int64_t fd, int64_t buf, int64_t n)
{
    return n < 0 ? -EINVAL : vls_recv((vcl_worker *)w, (int)fd, (void *)buf, (uint64_t)n);
}

int64_t vls_x_send(int64_t w, int64_t fd, int64_t buf, int64_t n, int64_t flags)
{
    return n < 0 ? -EINVAL : vls_send((vcl_worker *)w, (int)fd, (const void *)buf, (uint64_t)n, (int)flags);
}

int64_t vls_x_close(int64_t w, int64_t fd)
{
    return vls_close((vcl_worker *)w, (int)fd);
}

/* The workload counts its answered requests here. */
int64_t vls_x_count_requests(int64_t w, int64_t n)
{
    ((vcl_worker *)w)->count.requests += n;
    return 0;
}

/* Let up to n messages be published together: for loops that come back to epoll_wait. */
int64_t vls_x_cork(int64_t w, int64_t n)
{
    ((vcl_worker *)w)->cork = n < 1 ? 1 : n > 64 ? 64 : (uint32_t)n;
    return 0;
}

int64_t vls_x_publish(int64_t w)
{
    vcl_publish((vcl_worker *)w);
    return 0;
}
