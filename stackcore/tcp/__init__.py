"""Sans-IO TCP: no clock, no system call, no thread; packets and times go in, packets and notes come out."""
