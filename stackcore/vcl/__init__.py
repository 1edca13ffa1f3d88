"""The app side of the stack: sessions, epoll, event modes (D2), listener modes (D3), in C."""
