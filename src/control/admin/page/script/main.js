// Puts the parts together: each event changes what is shown, at most once a frame.

function start() {
  const [summary, map, pools, failovers, configuration, explain, changes] = [
    makeSummary(),
    makeMap(),
    makePools(),
    makeFailovers(),
    makeConfiguration(),
    makeExplain(),
    makeChanges(),
  ];
  const state = { status: null, history: null, lostSince: null, drawn: false };

  function draw() {
    state.drawn = true;
    if (state.status)
      for (const update of [summary, map, pools.update, failovers, configuration, explain]) update(state.status);
    if (state.history) pools.updateHistory(state.history);
    state.history = null;
  }

  /** A page that nobody looks at is not drawn until somebody does. */
  function soon() {
    if (!state.drawn) return;
    state.drawn = false;
    requestAnimationFrame(draw);
  }
  state.drawn = true;

  function showFeed() {
    const lost = state.lostSince !== null;
    setAttributes(document.documentElement, { "data-feed": lost ? "lost" : state.status ? "live" : "connecting" });
    setHidden(byId("lost"), !lost);
    if (state.status) setText(byId("as-of"), `${lost ? "as of" : "live,"} ${clock(state.status.now ?? Date.now())}`);
  }

  const retry = openFeed({
    status(status) {
      state.status = status;
      changes.update(status);
      showFeed();
      soon();
    },
    history(history) {
      state.history = history;
      soon();
    },
    live() {
      if (state.lostSince === null) return;
      state.lostSince = null;
      changes.tell("good", "The connection to the edge is back");
      showFeed();
    },
    lost(since) {
      state.lostSince = since;
      const then = state.status ? `; what is shown is as of then` : "";
      const again = el("button", { type: "button" }, "Try now");
      again.addEventListener("click", () => retry());
      byId("lost").replaceChildren(
        el("strong", {}, `Connection lost since ${clock(since)}`),
        `${then}. It is tried again. `,
        again,
      );
      showFeed();
    },
  });
}

start();
