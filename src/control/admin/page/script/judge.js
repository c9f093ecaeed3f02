// What is well and what is not: grades of figures, replicas, pools and regions. Pure functions over `/status`.
// A grade is "good", "fair", "bad", or "none" when nothing can be said.

/** The operators' guide: what to aim for, and from where on to act. Times in ms. */
const TARGETS = {
  ttftP50: { target: 100, alert: 200 },
  ttftP99: { target: 500, alert: 1_000 },
  errorRate: { target: 0.001, alert: 0.01 },
  /** Here less is worse: GPUs that idle cost as much as those that work. */
  gpu: { target: 0.7, alert: 0.4 },
};
/** With fewer calls a quantile or a rate is an accident. */
const CALLS_MIN = 5;

function graded(value, { target, alert }) {
  if (!isNumber(value)) return "none";
  if (value > alert) return "bad";
  return value < target ? "good" : "fair";
}

const GRADE_MARKS = { good: "●", fair: "▲", bad: "✕", none: "○" };
const RANK = { none: 0, good: 1, fair: 2, bad: 3 };
const worst = (grades) => grades.reduce((a, b) => (RANK[b] > RANK[a] ? b : a), "none");

const allPools = (status) =>
  status.regions.flatMap((region) => region.pools.map((pool) => ({ ...pool, region: region.name })));
const total = (items, of) => items.reduce((sum, item) => sum + (of(item) ?? 0), 0);
const errorRate = (recent) => (recent && recent.calls >= CALLS_MIN ? recent.errors / recent.calls : null);
const perSecond = (recent) => (recent?.seconds > 0 ? recent.calls / recent.seconds : null);

function cachedShare(recent) {
  const { cached = 0, computed = 0 } = recent?.prompt_tokens ?? {};
  return cached + computed > 0 ? cached / (cached + computed) : null;
}

/** A replica's standing, with the word for it and, when it is out of use, why. */
function replicaState(replica) {
  const why = replica.failing?.why ?? null;
  switch (replica.standing) {
    case "usable":
      return why ? { grade: "fair", word: "in use, fails checks", why } : { grade: "good", word: "in use", why };
    case "probe":
      return { grade: "fair", word: "on trial", why: why ?? "its circuit breaker lets single calls through" };
    case "breaker_open":
      return { grade: "bad", word: "down", why: why ?? "its circuit breaker is open after failed calls" };
    case "unhealthy":
      return {
        grade: "bad",
        word: "down",
        why: why ?? (replica.resolved ? "its health checks fail" : "its host name has no address"),
      };
    default:
      return { grade: "none", word: words(replica.standing), why };
  }
}

const isInUse = (replica) => replica.standing === "usable" || replica.standing === "probe";

function poolState(pool) {
  const all = pool.replicas.length;
  const used = pool.replicas.filter(isInUse).length;
  if (used === 0) return { grade: "bad", word: all === 0 ? "no replicas" : `down: 0 of ${all} in use` };
  const grade = worst(pool.replicas.map((replica) => replicaState(replica).grade));
  return { grade: grade === "good" ? "good" : "fair", word: `${used} of ${all} in use` };
}

function regionState(region) {
  const grades = region.pools.map((pool) => poolState(pool).grade);
  if (grades.length === 0) return { grade: "none", word: "no pools" };
  if (grades.every((grade) => grade === "bad")) return { grade: "bad", word: "down" };
  return grades.every((grade) => grade === "good")
    ? { grade: "good", word: "up" }
    : { grade: "fair", word: "partly up" };
}

function readiness(status) {
  if (status.draining) return { grade: "fair", word: "Draining" };
  return status.unready ? { grade: "bad", word: `Not ready: ${status.unready}` } : { grade: "good", word: "Ready" };
}

/** TTFT of all calls; nothing of a handful. */
const overallTtft = ({ ttft_ms: { all } }) => (all.count >= CALLS_MIN ? all : { p50: null, p99: null });

/** What somebody should look at, the worst first. Each has a key that stays while it lasts. */
function problems(status) {
  const found = [];
  const add = (grade, key, text) => found.push({ grade, key, text });
  if (status.unready || status.draining)
    add(readiness(status).grade, "ready", `This edge is ${readiness(status).word.toLowerCase()}.`);
  for (const pool of allPools(status)) poolProblems(pool, add);
  const [ttft, failed] = [overallTtft(status.last_minute), errorRate(status.last_minute)];
  if (failed > TARGETS.errorRate.alert)
    add("bad", "errors", `${percent(failed)} of all calls failed in the last minute.`);
  if (ttft.p50 > TARGETS.ttftP50.alert)
    add("bad", "p50", `Half of the calls wait longer than ${duration(ttft.p50)} for their first token.`);
  if (ttft.p99 > TARGETS.ttftP99.alert)
    add("bad", "p99", `One call in a hundred waits longer than ${duration(ttft.p99)} for its first token.`);
  const last = status.reloads?.[0];
  if (last?.error) add("bad", "reload", `The last new configuration was refused: ${last.error}`);
  if (status.geo?.stale) add("fair", "geo", `The GeoIP database is ${status.geo.age_days} days old.`);
  return found.sort((a, b) => RANK[b.grade] - RANK[a.grade]);
}

function poolProblems(pool, add) {
  const out = pool.replicas.filter((replica) => replicaState(replica).grade !== "good");
  if (pool.replicas.length > 0 && !pool.replicas.some(isInUse)) {
    add(
      "bad",
      `pool ${pool.name}`,
      `Pool ${pool.name} is down: none of its ${plural(pool.replicas.length, "replica")} is in use: ${reasons(out)}.`,
    );
  } else {
    for (const replica of out.slice(0, PROBLEMS_PER_POOL)) {
      const { grade, word, why } = replicaState(replica);
      add(
        grade,
        `replica ${pool.name}/${replica.name}`,
        `Replica ${replica.name} of ${pool.name} is ${word}${why ? `: ${why}` : ""}.`,
      );
    }
    const more = out.length - PROBLEMS_PER_POOL;
    if (more > 0) add("fair", `more ${pool.name}`, `${plural(more, "more replica")} of ${pool.name} in trouble.`);
  }
  const rate = errorRate(pool.last_minute);
  if (rate > TARGETS.errorRate.alert)
    add("bad", `errors ${pool.name}`, `${percent(rate)} of the calls to ${pool.name} failed in the last minute.`);
  const waiting = (pool.queued ?? 0) + (pool.sessions_waiting ?? 0);
  if (waiting > 0)
    add(
      "fair",
      `queue ${pool.name}`,
      `${plural(waiting, "call")} to ${pool.name} wait${waiting === 1 ? "s" : ""} for a place.`,
    );
}

/** Replicas told of one by one; the rest of a pool is summed up. */
const PROBLEMS_PER_POOL = 3;

const reasons = (replicas) =>
  listed([...new Set(replicas.map((replica) => replicaState(replica).why).filter(Boolean))], 2);
