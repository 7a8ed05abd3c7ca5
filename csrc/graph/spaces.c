/* spaces.c - channel spaces: which channel dimensions are the same, which grow together, which may shrink. */
#include "base/alloc.h"
#include "base/status.h"
#include "graph/internal.h"

int32_t dn_spaces_find(const dn_space_set *set, int32_t space) {
    while (set->parent[space] != space) space = set->parent[space];
    return space;
}

int32_t dn_spaces_open(dn_space_set *set, int32_t full, bool fixed) {
    int32_t space = set->count++;
    set->parent[space] = space;
    set->full[space] = full;
    set->fixed[space] = fixed;
    return space;
}

/* The older space stays the root, so numbering follows the order of nodes. */
void dn_spaces_join(dn_space_set *set, int32_t a, int32_t b) {
    a = dn_spaces_find(set, a);
    b = dn_spaces_find(set, b);
    if (a == b) return;
    int32_t root = a < b ? a : b, child = a < b ? b : a;
    set->parent[child] = root;
    set->fixed[root] = set->fixed[root] || set->fixed[child];
}

void dn_spaces_fix(dn_space_set *set, const dn_node *node) {
    for (int32_t i = 0; i < node->segment_count; i++) set->fixed[dn_spaces_find(set, node->segments[i].space)] = true;
}

static int32_t gcd(int32_t a, int32_t b) {
    while (b) {
        int32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* lead[s] and groups[s] of every settled space: spaces tied through grouped convolutions follow the first of them in steps of 1/groups; in a network of incremental groups
 * all elastic spaces do. */
static void follow_ties(const dn_graph *graph, const dn_space_set *set, const int32_t *number, int32_t *lead, int32_t *groups) {
    for (int32_t i = 0; i < graph->space_count; i++) lead[i] = i, groups[i] = 0;
    for (bool changed = true; changed;) {
        changed = false;
        for (int32_t t = 0; t < set->tie_count; t++) {
            int32_t a = number[dn_spaces_find(set, set->ties[t].a)], b = number[dn_spaces_find(set, set->ties[t].b)];
            int32_t low = lead[a] < lead[b] ? lead[a] : lead[b], common = gcd(gcd(groups[a], groups[b]), set->ties[t].groups);
            if (lead[a] != low || lead[b] != low || groups[a] != common || groups[b] != common) changed = true;
            lead[a] = lead[b] = low;
            groups[a] = groups[b] = common;
        }
    }
    int32_t first = -1;
    for (int32_t i = 0; graph->groups > 1 && i < graph->space_count; i++) {
        if (!graph->spaces[i].elastic) continue;
        if (first < 0) first = i;
        lead[i] = first;
        groups[i] = gcd(groups[i], graph->groups);
    }
}

static dn_status fill_spaces(dn_graph *graph, const dn_space_set *set, const int32_t *number, int32_t *lead, int32_t *groups, dn_error *err) {
    for (int32_t i = 0; i < set->count; i++)
        if (set->parent[i] == i) graph->spaces[number[i]] = (dn_space_info){.full = set->full[i], .elastic = !set->fixed[i]};
    follow_ties(graph, set, number, lead, groups);
    for (bool changed = true; changed;) { /* a fixed follower fixes its leader, and the other way round */
        changed = false;
        for (int32_t i = 0; i < graph->space_count; i++) {
            dn_space_info *a = &graph->spaces[i], *b = &graph->spaces[lead[i]];
            if (a->elastic != b->elastic) a->elastic = b->elastic = 0, changed = true;
        }
    }
    for (int32_t i = 0; i < graph->space_count; i++) {
        dn_space_info *space = &graph->spaces[i];
        space->lead = lead[i];
        space->unit = groups[i] ? space->full / groups[i] : 1;
        if (graph->groups > 1 && space->elastic && space->full % graph->groups)
            return dn_fail(err, DN_EGRAPH, "%d groups do not divide a layer of %d channels", graph->groups, space->full);
    }
    return DN_OK;
}

dn_status dn_spaces_settle(dn_graph *graph, dn_space_set *set, dn_error *err) {
    dn_status status;
    int32_t *number = NULL, *lead = NULL, *groups = NULL;
    DN_GO(DN_NEW(&number, (size_t)set->count, err));
    for (int32_t i = 0; i < set->count; i++)
        if (set->parent[i] == i) number[i] = graph->space_count++;
    DN_GO(DN_NEW(&graph->spaces, (size_t)graph->space_count, err));
    DN_GO(DN_NEW(&lead, (size_t)graph->space_count, err));
    DN_GO(DN_NEW(&groups, (size_t)graph->space_count, err));
    DN_GO(fill_spaces(graph, set, number, lead, groups, err));
    for (int32_t i = 0; i < graph->count; i++) {
        dn_segment *segments = (dn_segment *)(uintptr_t)graph->nodes[i].segments;
        for (int32_t s = 0; s < graph->nodes[i].segment_count; s++) segments[s].space = number[dn_spaces_find(set, segments[s].space)];
    }
done:
    dn_free(number);
    dn_free(lead);
    dn_free(groups);
    return status;
}
