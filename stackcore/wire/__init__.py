"""Where packets, or in the null transport requests, come from and go to."""
