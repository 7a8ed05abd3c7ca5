/* internal.h - what the files of the graph layer share while a graph is being made. */
#ifndef DN_GRAPH_INTERNAL_H
#define DN_GRAPH_INTERNAL_H

#include "graph/graph.h"

/* Limits that keep every later size computation inside 32 bits. */
enum { DN_MAX_NODES = 65535, DN_MAX_SIDE = 65535, DN_MAX_CHANNELS = 1 << 20, DN_MAX_ELEMENTS = 1 << 28, DN_MAX_SEGMENTS = 1024 };

/* Channel spaces while nodes are read: union-find over spaces that must be equal, and ties between spaces that grow together through grouped convolutions. */
typedef struct dn_tie {
    int32_t a, b, groups;
} dn_tie;
typedef struct dn_space_set {
    int32_t *parent, *full;
    bool *fixed;
    int32_t count;
    dn_tie *ties;
    int32_t tie_count;
} dn_space_set;

int32_t dn_spaces_find(const dn_space_set *set, int32_t space);
int32_t dn_spaces_open(dn_space_set *set, int32_t full, bool fixed);
void dn_spaces_join(dn_space_set *set, int32_t a, int32_t b);
void dn_spaces_fix(dn_space_set *set, const dn_node *node);
/* Numbers the spaces that are left, points the nodes' segments at them and fills graph->spaces. */
dn_status dn_spaces_settle(dn_graph *graph, dn_space_set *set, dn_error *err);

/* Accepts or refuses one node, given those before it, and fills its tensor. */
dn_status dn_check_node(dn_graph *graph, dn_space_set *set, const dn_node_spec *spec, int32_t index, dn_error *err);

/* Finds the blocks of elastic depth. */
dn_status dn_stages_find(dn_graph *graph, dn_error *err);

#endif
