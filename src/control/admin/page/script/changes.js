// What changed since the page was opened: also what a screen reader is told. Only what matters: figures change every
// second, and are not told.

const CHANGES_KEPT = 20;
/** From so many replicas of a pool at once on, they are told of as a number. */
const TOLD_ONE_BY_ONE = 3;

function makeChanges() {
  const log = byId("changes");
  const list = el("ol", { class: "plain changes" });
  let before = null;
  overflowing.observe(log);
  overflowing.observe(list);

  function tell(grade, text) {
    if (!list.isConnected) log.replaceChildren(list);
    const time = el("time", { datetime: new Date().toISOString() }, clock(Date.now()));
    const mark = el("span", { class: "mark", "aria-hidden": "true" }, GRADE_MARKS[grade]);
    list.prepend(el("li", { "data-grade": grade }, mark, el("span", {}, text), " ", time));
    while (list.childElementCount > CHANGES_KEPT) list.lastChild.remove();
  }

  return {
    tell,
    update(status) {
      const now = facts(status);
      if (before !== null) for (const [grade, text] of differences(before, now)) tell(grade, text);
      before = now;
    },
  };
}

/** What is compared from one status to the next. */
function facts(status) {
  const pools = new Map();
  for (const pool of allPools(status)) {
    pools.set(pool.name, new Map(pool.replicas.map((replica) => [replica.name, replicaState(replica)])));
  }
  return { ready: readiness(status), hash: status.config_hash, refused: status.reloads?.[0], pools };
}

function differences(before, now) {
  const found = [];
  if (before.ready.word !== now.ready.word) found.push([now.ready.grade, `This edge: ${now.ready.word}`]);
  if (before.hash !== now.hash) found.push(["good", `A new configuration is in force: ${now.hash.slice(0, 12)}`]);
  if (now.refused?.error && now.refused.ts !== before.refused?.ts)
    found.push(["bad", `A new configuration was refused: ${now.refused.error}`]);
  for (const [pool, replicas] of now.pools) {
    const known = before.pools.get(pool);
    if (known) found.push(...poolDifferences(pool, known, replicas));
  }
  return found;
}

function poolDifferences(pool, before, now) {
  const changed = [...now].filter(([name, { grade }]) => before.has(name) && before.get(name).grade !== grade);
  const of = (grade) => changed.filter(([, state]) => state.grade === grade);
  return ["bad", "fair", "good"].flatMap((grade) => {
    const these = of(grade);
    if (these.length > TOLD_ONE_BY_ONE) return [[grade, `${these.length} replicas of ${pool} are ${these[0][1].word}`]];
    return these.map(([name, { word, why }]) => [
      grade,
      `Replica ${name} of ${pool} is ${grade === "good" ? `${word} again` : word}${why ? `: ${why}` : ""}`,
    ]);
  });
}
