/* probe.h - how fast this CPU's dot products are when nothing is loaded or stored: what the speed of a kernel is compared with.
 *
 * The clock of a CPU wanders, so a figure means something beside a probe measured in the same moments only. */
#ifndef DN_BASE_PROBE_H
#define DN_BASE_PROBE_H

#include <stdint.h>

typedef struct dn_probe_loop {
    void (*run)(int64_t rounds);
    double macs; /* multiply-accumulates per round */
} dn_probe_loop;

/* The loop of the dot product that a kernel ("conv_s8 avx2", more may follow) is made of; run is NULL where it has none or this CPU cannot run it. */
dn_probe_loop dn_probe_find(const char *kernel);
/* Seconds that some rounds take. */
double dn_probe_time(const dn_probe_loop *loop, int64_t rounds);

#endif
