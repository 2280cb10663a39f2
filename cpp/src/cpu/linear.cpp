// Linear attention: what its entries make of the arrays of a call. linear/chunks.h has features and
// states, linear/scans.h how states are built and read, linear/heads.h how that is split, and
// linear/step.h streaming steps.
#include "linear/step.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

template <class T>
Maps<T> maps_of(const Call& call, int kind, double scale, double eps, index e) {
  const index d = call['d'];
  const index f = kind == affine || kind == random_relu ? call['p']
                  : kind == trigonometric               ? 2 * call['p']
                  : kind == cosine                      ? 1 + d
                  : kind == taylor2                     ? 1 + d + d * (d + 1) / 2
                                                        : d;
  return {kind,     d,      f,       e,      Panel<T>::padded(d), Panel<T>::padded(e),
          T(scale), T(eps), nullptr, nullptr};
}
// Copies a projection and its bias, which random_relu has not, to `to`.
template <class T>
void take_projection(const Operand& projection, const Operand& bias, T* to, Maps<T>& maps) {
  if (!projection.data) return;
  fetch(View{projection.data, projection.pitch, projection.step, projection.type},
        maps.weight_rows(), maps.d, to, maps.d);
  maps.weights = to;
  if (!bias.data) return;
  T* const constants = to + maps.f * maps.d;
  fetch(View{bias.data, bias.step, 0, bias.type}, maps.f, 1, constants, 1);
  maps.bias = constants;
}
template <class T>
index projection_room(const Call& call, const Operand& projection) {
  return projection.data ? (call['p'] + 1) * (call['d'] + 1) * index(sizeof(T)) : 0;
}

// Operands q, k, v, projection, bias, weight, decay, c, s, z in the order of the signatures.
template <class T>
struct Problem {
  const Call& call;
  const Operand* op;
  Parameters options;
  Maps<T> maps;
  index n, m;
  Allocation projection, places, masses;
  bool ready = true;

  Problem(const Call& call, const Operand* op, bool gradient)
      : call(call),
        op(op),
        options(call.parameter),
        n(call['l']),
        m(call['s']),
        projection(projection_room<T>(call, op[3])),
        places(op[6].data ? call.rows * n * index(sizeof(double)) : 0),
        masses(gradient && options.kind == efficient && others()
                   ? call.rows * n * 2 * call['d'] * index(sizeof(T))
                   : 0) {
    maps = maps_of<T>(call, options.kind, options.scale, options.eps_of_map, call['v']);
    ready = projection.data && places.data && masses.data;
    if (!ready) return;
    take_projection(op[3], op[4], static_cast<T*>(projection.data), maps);
    if (op[6].data) {
      for (index row = 0; row < call.rows; ++row) {
        const View sums = column(call, op[6], row);
        double* const to = static_cast<double*>(places.data) + row * n;
        for (index i = 0; i < n; ++i) {
          index at = i + options.offset + 1;
          at = at < 0 ? 0 : at > m ? m : at;
          to[i] = at == 0 ? 0.0 : load<double>(sums.data + (at - 1) * sums.pitch);
        }
      }
    }
  }

  Rows keys(index row) const {
    Rows rows{};
    rows.count = m;
    rows.x = matrix(call, op[1], row);
    rows.values = matrix(call, op[2], row);
    rows.weight = column(call, op[5], row);
    rows.decay = column(call, op[6], row);
    return rows;
  }
  Rows queries(index row, const Operand* g, void* stats) const {
    Rows rows{};
    rows.count = n;
    rows.query = true;
    rows.x = matrix(call, op[0], row);
    if (g) rows.values = matrix(call, *g, row);
    if (op[6].data) {
      rows.place = {reinterpret_cast<char*>(static_cast<double*>(places.data) + row * n),
                    index(sizeof(double)), 0, float64};
    }
    rows.stats_pitch = index(sizeof(Stats<T>));
    if (stats) rows.stats = static_cast<char*>(stats) + row * n * rows.stats_pitch;
    const index pitch = 2 * maps.f * index(sizeof(T));
    rows.masses = {static_cast<char*>(masses.data) + row * n * pitch, pitch, index(sizeof(T)),
                   type_of<T>};
    return rows;
  }
  // With features of queries that are at most 1.
  bool all_see_all() const {
    const bool free = !options.causal && !options.exclude;
    return free && maps.log() && (options.normalize || maps.per_feature());
  }
  bool others() const { return options.exclude && !options.causal; }
  // Reader i sees sources j < i + offset, or all `others` than i + offset.
  index offset(bool back) const {
    if (!options.causal && !options.exclude) return back ? n : m;
    const index own = options.offset + (options.exclude ? 0 : 1);
    return back ? n - m + own : own;
  }
  Scan<T> scan(const Rows& sources, const Rows& readers, bool back, Task task) const {
    const bool normalize = options.normalize && !maps.per_feature();
    Scan<T> scan{{maps}, sources,   readers,        offset(back),        others(),
                 task,   normalize, T(options.eps), back ? T(-1) : T(1), {}};
    const index wanted = index(call.parameter[7]);
    scan.step = wanted < chunk ? wanted : chunk;
    scan.started = !back && op[8].data;
    return scan;
  }
  // Fills the state before the first key.
  void begin(index row, State<T>& state) const {
    if (!op[8].data) return;
    fetch(column(call, op[7], row), maps.f, 1, state.c, 1);
    fetch(matrix(call, op[8], row), maps.f, maps.e, state.s, maps.e_pitch);
    fetch(column(call, op[9], row), maps.f, 1, state.z, 1);
  }
};

template <class T>
long long forward(const Call& call) {
  const Operand* op = call.operand;
  const Problem<T> problem(call, op, false);
  if (!problem.ready) return -1;
  const Maps<T>& maps = problem.maps;
  const auto make = [&](index row) {
    Scan<T> scan =
        problem.scan(problem.keys(row), problem.queries(row, nullptr, nullptr), false, Task::value);
    scan.to.out = matrix(call, op[10], row);
    return scan;
  };
  Heads<T> heads(call, maps, problem.m, problem.n, problem.options);
  const Allocation states(heads.bytes());
  if (!states.data) return -1;
  heads.begin_at(states.data);
  for (index row = 0; row < call.rows; ++row) problem.begin(row, heads.first(row));
  if (!heads.run(make)) return -1;
  if (!op[12].data) return 0;
  if (!heads.gather(make)) return -1;
  parallel(call.rows, [&](index row) {
    State<T>& state = heads.last(row);
    const Scan<T> scan = make(row);
    scan.move(state, scan.place_of(problem.m - 1), T(1));
    const bool in_units = maps.log() || maps.kind == trigonometric;
    for (index t = 0; !in_units && t < maps.f; ++t) {
      const T factor = exp_anywhere(state.c[t]);
      scan.scale_row(state, t, factor);
      state.c[t] = 0;
    }
    put(column(call, op[11], row), maps.f, 1, state.c, 1);
    put(matrix(call, op[12], row), maps.f, maps.e, state.s, maps.e_pitch);
    put(column(call, op[13], row), maps.f, 1, state.z, 1);
  });
  return 0;
}

template <class T>
long long backward(const Call& call) {
  const Operand *op = call.operand, *to = op + 11;
  const Problem<T> problem(call, op + 1, true);
  if (!problem.ready) return -1;
  const Maps<T>& maps = problem.maps;
  const index n = problem.n, m = problem.m;
  const bool windows = maps.per_feature() && problem.options.causal;
  Heads<T> first(call, maps, m, n, problem.options);
  Heads<T> heads(call, maps, n, windows ? n : m, problem.options);
  const Allocation states(first.bytes() + heads.bytes());
  Allocation stats(call.rows * n * index(sizeof(Stats<T>)));
  Allocation slopes(to[4].data ? call.rows * (n + m) * index(sizeof(double)) : 0);
  if (!states.data || !stats.data || !slopes.data) return -1;
  first.begin_at(states.data);
  heads.begin_at(static_cast<char*>(states.data) + first.bytes());
  double* const slope = static_cast<double*>(slopes.data);
  const auto column_of = [](double* at) {
    return View{reinterpret_cast<char*>(at), index(sizeof(double)), 0, float64};
  };
  const auto of_queries = [&](index row) {
    Scan<T> scan = problem.scan(problem.keys(row), problem.queries(row, op, stats.data), false,
                                Task::query_gradient);
    scan.to.dq = matrix(call, to[0], row);
    if (to[4].data) scan.to.slope = column_of(slope + row * (n + m));
    return scan;
  };
  const auto of_keys = [&](index row) {
    Scan<T> scan = problem.scan(problem.queries(row, op, stats.data).turned(),
                                problem.keys(row).turned(), true, Task::key_gradient);
    scan.to.dk = matrix(call, to[1], row).turned(m);
    scan.to.dv = matrix(call, to[2], row).turned(m);
    if (to[3].data) scan.to.dweight = column(call, to[3], row).turned(m);
    if (to[4].data) scan.to.slope = column_of(slope + row * (n + m) + n).turned(m);
    return scan;
  };
  for (index row = 0; row < call.rows; ++row) problem.begin(row, first.first(row));
  if (windows) {
    const auto make = [&](index row) { return Windows<T>{of_queries(row), of_keys(row)}; };
    if (!first.run_windows(make, heads)) return -1;
  } else {
    if (!first.run(of_queries, problem.all_see_all() ? &heads : nullptr)) return -1;
    if (!heads.run(of_keys)) return -1;
  }
  if (to[5].data && !heads.gather(of_keys)) return -1;
  parallel(call.rows, [&](index row) {
    if (to[4].data) {
      const double *of_query = slope + row * (n + m), *of_key = of_query + n;
      const View out = column(call, to[4], row);
      double total = 0;
      index i = n - 1;
      for (index t = m - 1; t >= 0; --t) {
        for (; i >= 0 && i + problem.options.offset + 1 > t; --i) total += of_query[i];
        total -= of_key[t];
        const T value = T(total);
        put(out.from(t), 1, 1, &value, 1);
      }
    }
    if (to[5].data) {
      State<T>& state = heads.last(row);
      const Scan<T> scan = of_keys(row);
      scan.move(state, 0, T(-1));
      T* const start = state.c;
      for (index t = 0; t < maps.f; ++t) {
        T before;
        fetch(column(call, op[8], row).from(t), 1, 1, &before, 1);
        const bool nothing = before == T(-infinity) || start[t] == T(-infinity);
        scan.scale_row(state, t, nothing ? T(0) : exp_anywhere(T(before + start[t])));
      }
      put(matrix(call, to[5], row), maps.f, maps.e, state.s, maps.e_pitch);
      put(column(call, to[6], row), maps.f, 1, state.z, 1);
    }
  });
  return 0;
}

// --- Features alone ---

// Operands x, projection, bias.
template <class T>
long long feature_rows(const Call& call) {
  const Operand* op = call.operand;
  const double* const p = call.parameter;
  int kind = int(p[0]);
  if (kind == efficient) kind = p[3] != 0 ? softmax_d : exponential;
  Maps<T> maps = maps_of<T>(call, kind, p[1], p[2], 0);
  const Allocation projection(projection_room<T>(call, op[1]));
  if (!projection.data) return -1;
  take_projection(op[1], op[2], static_cast<T*>(projection.data), maps);
  const Head<T> head{maps};
  const index rows = call['l'], strips = (rows + chunk - 1) / chunk;
  const index f_pitch = Panel<T>::padded(maps.f);
  long long failed = 0;
  parallel(call.rows * strips, [&](index job) {
    Block<T> block{};
    T *rough, *turned;
    const auto carve = [&](Carver<T>& memory) {
      block.x = memory.take(maps.d_pitch * chunk);
      block.features = memory.take(f_pitch * chunk);
      block.values = memory.take(chunk);
      rough = memory.take(chunk * maps.d_pitch);
      turned = memory.take(chunk * f_pitch);
    };
    Carver<T> size(nullptr);
    carve(size);
    void* const room = thread_memory(static_cast<unsigned long long>(size.bytes()));
    if (!room) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      return;
    }
    Carver<T> memory(room);
    carve(memory);
    const index row = job / strips, first = job % strips * chunk;
    const int count = int(rows - first < chunk ? rows - first : chunk);
    Rows own{};
    own.count = rows;
    own.x = matrix(call, op[0], row);
    own.query = true;
    head.load(own, first, count, 0, false, block, rough);
    for (index i = 0; maps.log() && i < maps.f * chunk; ++i) {
      const T log = maps.bias_of(i / chunk) + block.shift[i % chunk];
      block.features[i] = exp_anywhere(T(block.features[i] + log));
    }
    for (index i = 0; maps.kind == trigonometric && i < maps.f * chunk; ++i) {
      block.features[i] *= exp_anywhere(block.shift[i % chunk]);
    }
    for (index i = maps.f * chunk; i < f_pitch * chunk; ++i) block.features[i] = 0;
    turn(block.features, chunk, f_pitch, chunk, turned, f_pitch);
    put(matrix(call, op[3], row).from(first), count, maps.f, turned, f_pitch);
  });
  return failed ? -1 : 0;
}

constexpr Entry linear_entries[] = {
    {"linear_attention",
     "(l,d),(s,d),(s,v),any(p,d)?,any(p)?,any(s)?,any(s)?,any(f)?,any(f,v)?,any(f)?"
     "->any(l,v),any(f)?,any(f,v)?,any(f)?",
     8,
     {forward<double>, forward<float>, forward<float>, forward<float>}},
    {"linear_attention_vjp",
     "(l,v),(l,d),(s,d),(s,v),any(p,d)?,any(p)?,any(s)?,any(s)?,any(f)?,any(f,v)?,any(f)?"
     "->any(l,d),any(s,d),any(s,v),any(s)?,any(s)?,any(f,v)?,any(f)?",
     8,
     {backward<double>, backward<float>, backward<float>, backward<float>}},
    {"feature_map",
     "(l,d),any(p,d)?,any(p)?->any(l,f)",
     4,
     {feature_rows<double>, feature_rows<float>, feature_rows<float>, feature_rows<float>}},
    {"linear_attention_step",
     "(d),(d),(v),any(f,d)?,any(f)?,any()?,any()?->any(v),any(f),any(f,v),any(f)",
     5,
     {step<double>, step<float>, step<float>, step<float>}},
};

}  // namespace

extern const Table linear_table;
const Table linear_table = {"linear", linear_entries, sizeof linear_entries / sizeof(Entry)};

}  // namespace KX_ISA
}  // namespace kexue
