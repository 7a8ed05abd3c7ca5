/* survival.c - who lives on: constraint domination, rank, crowding; repeated vectors and failed evaluations last.
 *
 * Levels, best first: fronts of the feasible rows; infeasible rows by total violation, equal ones together (Deb et al. 2002, constraint domination); rows whose vector
 * another row has already; failed rows. The last two are one level each. */
#include <math.h>

#include "search/nsga2.h"

enum kind { FEASIBLE, INFEASIBLE, REPEATED, FAILED };

/* ---- rows by hash ---- */

/* Four independent chains hide the multiplier's latency; equality is always decided by comparing rows, so the hash need only be good, not perfect. */
uint64_t dn_row_hash(const double *x, size_t d) {
    uint64_t lane[4] = {0x9e3779b97f4a7c15u, 0xbf58476d1ce4e5b9u, 0x94d049bb133111ebu, 0xd6e8feb86659fd93u}, bits;
    for (size_t k = 0; k < d; k++) {
        memcpy(&bits, x + k, sizeof bits);
        lane[k & 3] = (lane[k & 3] ^ bits ^ bits >> 32) * 0xff51afd7ed558ccdu;
    }
    uint64_t hash = lane[0] ^ (lane[1] << 17 | lane[1] >> 47) ^ (lane[2] << 31 | lane[2] >> 33) ^ (lane[3] << 47 | lane[3] >> 17);
    hash = (hash ^ hash >> 33) * 0xc4ceb9fe1a85ec53u;
    return hash ^ hash >> 29;
}

void dn_table_clear(dn_nsga2 *s) { memset(s->table, 0, (s->table_mask + 1) * sizeof *s->table); }

int dn_table_add(dn_nsga2 *s, size_t row) {
    size_t slot = (size_t)s->hash[row] & s->table_mask;
    for (; s->table[slot]; slot = (slot + 1) & s->table_mask) {
        size_t other = s->table[slot] - 1;
        if (s->hash[other] == s->hash[row] && memcmp(s->x + other * s->d, s->x + row * s->d, s->d * sizeof *s->x) == 0) return 1;
    }
    s->table[slot] = (uint32_t)row + 1;
    return 0;
}

/* ---- levels ---- */

static int failed(const dn_nsga2 *s, size_t row) {
    for (size_t k = 0; k < s->m; k++) {
        if (isnan(s->f[row * s->m + k])) return 1;
    }
    for (size_t k = 0; k < s->c; k++) {
        if (isnan(s->g[row * s->c + k])) return 1;
    }
    return 0;
}

static double violation(const dn_nsga2 *s, size_t row) {
    double sum = 0;
    for (size_t k = 0; k < s->c; k++) {
        if (s->g[row * s->c + k] > 0) sum += s->g[row * s->c + k];
    }
    return sum;
}

static void classify(dn_nsga2 *s, size_t rows) {
    dn_table_clear(s);
    for (size_t i = 0; i < rows; i++) {
        s->violation[i] = violation(s, i);
        if (failed(s, i)) s->kind[i] = FAILED;
        else if (dn_table_add(s, i)) s->kind[i] = REPEATED;
        else s->kind[i] = s->violation[i] > 0 ? INFEASIBLE : FEASIBLE;
    }
}

static size_t gather(dn_nsga2 *s, size_t rows, enum kind kind) {
    size_t count = 0;
    for (size_t i = 0; i < rows; i++) {
        s->kept[count] = (uint32_t)i;
        count += s->kind[i] == kind;
    }
    return count;
}

static void gather_objectives(dn_nsga2 *s, size_t count) {
    for (size_t i = 0; i < count; i++) memcpy(s->kept_f + i * s->m, s->f + s->kept[i] * s->m, s->m * sizeof *s->f);
}

static dn_status rank_feasible(dn_nsga2 *s, size_t rows, size_t *levels, dn_error *err) {
    size_t count = gather(s, rows, FEASIBLE);
    gather_objectives(s, count);
    dn_status status = dn_ranker_run(&s->ranker, s->kept_f, count, s->kept_rank, levels, err);
    if (status != DN_OK) return status;
    for (size_t i = 0; i < count; i++) s->rank[s->kept[i]] = s->kept_rank[i];
    return DN_OK;
}

/* Levels of the infeasible rows from level on; returns the next free one. */
static size_t rank_infeasible(dn_nsga2 *s, size_t rows, size_t level) {
    size_t count = gather(s, rows, INFEASIBLE);
    if (count == 0) return level;
    for (size_t i = 0; i < count; i++) s->distance[i] = s->violation[s->kept[i]];
    uint64_t *order = s->ranker.sorted, mask = dn_sort_rows(order, s->ranker.scratch, s->distance, count, 1, 1);
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && s->distance[order[i] & mask] != s->distance[order[i - 1] & mask]) level++;
        s->rank[s->kept[order[i] & mask]] = (int32_t)level;
    }
    return level + 1;
}

static size_t rank_rest(dn_nsga2 *s, size_t rows, enum kind kind, size_t level) {
    size_t count = gather(s, rows, kind);
    for (size_t i = 0; i < count; i++) s->rank[s->kept[i]] = (int32_t)level;
    return count ? level + 1 : level;
}

/* ---- selection ---- */

/* Marks the `room` rows of this level that are least crowded; equals by row number. */
static void split_level(dn_nsga2 *s, size_t rows, int32_t level, size_t room) {
    size_t count = 0;
    for (size_t i = 0; i < rows; i++) {
        s->kept[count] = (uint32_t)i;
        count += s->rank[i] == level;
    }
    gather_objectives(s, count);
    memset(s->kept_rank, 0, count * sizeof *s->kept_rank);
    dn_crowder_run(&s->crowder, s->kept_f, s->kept_rank, count, s->m, s->distance);
    for (size_t i = 0; i < count; i++) s->distance[i] = -s->distance[i];
    uint64_t *order = s->ranker.sorted, mask = dn_sort_rows(order, s->ranker.scratch, s->distance, count, 1, 1);
    for (size_t i = 0; i < room; i++) s->survives[s->kept[order[i] & mask]] = 1;
}

/* Marks the best n of more than n rows. */
static void select_best(dn_nsga2 *s, size_t rows, size_t levels) {
    uint32_t *count = s->parents; /* [2n], free until the next offspring */
    memset(count, 0, levels * sizeof *count);
    for (size_t i = 0; i < rows; i++) count[s->rank[i]]++;
    size_t room = s->n, level = 0;
    while (count[level] <= room) room -= count[level++]; /* ends: there are more rows than room */
    for (size_t i = 0; i < rows; i++) s->survives[i] = s->rank[i] < (int32_t)level;
    if (room) split_level(s, rows, (int32_t)level, room);
}

static void move_row(dn_nsga2 *s, size_t to, size_t from) {
    memcpy(s->x + to * s->d, s->x + from * s->d, s->d * sizeof *s->x);
    memcpy(s->f + to * s->m, s->f + from * s->m, s->m * sizeof *s->f);
    if (s->c) memcpy(s->g + to * s->c, s->g + from * s->c, s->c * sizeof *s->g);
    s->rank[to] = s->rank[from];
    s->hash[to] = s->hash[from];
}

/* Surviving parents keep their place; surviving children take the places of the others. */
static void compact(dn_nsga2 *s) {
    size_t child = s->n;
    for (size_t i = 0; i < s->n; i++) {
        if (s->survives[i]) continue;
        while (!s->survives[child]) child++;
        move_row(s, i, child++);
    }
}

void dn_nsga2_crowd(dn_nsga2 *s) { dn_crowder_run(&s->crowder, s->f, s->rank, s->size, s->m, s->crowding); }

dn_status dn_survive(dn_nsga2 *s, size_t rows, dn_error *err) {
    size_t levels = 0;
    classify(s, rows);
    dn_status status = rank_feasible(s, rows, &levels, err);
    if (status != DN_OK) return status;
    levels = rank_infeasible(s, rows, levels);
    levels = rank_rest(s, rows, REPEATED, levels);
    levels = rank_rest(s, rows, FAILED, levels);
    if (rows > s->n) {
        select_best(s, rows, levels);
        compact(s);
    }
    s->size = s->n;
    dn_nsga2_crowd(s);
    return DN_OK;
}
