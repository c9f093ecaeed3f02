// Numbers, times and places as people read them.

const UNKNOWN = "–";
const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const rough = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 2 });
const dollars = new Intl.NumberFormat("en", { style: "currency", currency: "USD" });
const clockFormat = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const dayFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const countryNames = new Intl.DisplayNames("en", { type: "region", fallback: "code" });

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const known = (format) => (value) => (isNumber(value) ? format(value) : UNKNOWN);

const count = known((value) => (value < 100_000 ? numbers.format(value) : compact.format(value)));
const money = known((value) => dollars.format(value));
const rate = known((value) => `${value < 10 ? numbers.format(value) : Math.round(value)}/s`);

/** Milliseconds, as seconds from 1,000 on. */
const duration = known((ms) => {
  if (ms >= 9_950) return `${Math.round(ms / 1_000)} s`;
  if (ms >= 999.5) return `${(ms / 1_000).toFixed(1)} s`;
  return ms >= 9.95 ? `${Math.round(ms)} ms` : `${numbers.format(ms)} ms`;
});

/** A ratio as percent; small ones with a digit more, and one that is not 0 never as 0. */
const percent = known((ratio) => {
  const value = 100 * ratio;
  if (value > 0 && value < 0.01) return "< 0.01 %";
  return `${value >= 10 ? Math.round(value) : (value < 1 ? fine : numbers).format(value)} %`;
});

/** `n` of something: `plural(2, "replica")` is "2 replicas". */
const plural = (n, thing) => `${count(n)} ${thing}${n === 1 ? "" : "s"}`;

const clock = (time) => clockFormat.format(new Date(time));
const day = (time) => dayFormat.format(new Date(time));

/** How long ago, in one unit. */
function ago(seconds) {
  if (!isNumber(seconds)) return UNKNOWN;
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 120) return `${whole} s`;
  if (whole < 7_200) return `${Math.round(whole / 60)} min`;
  return whole < 172_800 ? `${Math.round(whole / 3_600)} h` : `${Math.round(whole / 86_400)} days`;
}

/** A country's name from its code. */
function country(code) {
  if (!code) return "Unknown place";
  try {
    return countryNames.of(code);
  } catch {
    return String(code);
  }
}

/** `51.1° N 10.4° E` */
function coordinates(latitude, longitude) {
  const half = (value, positive, negative) => `${numbers.format(Math.abs(value))}° ${value < 0 ? negative : positive}`;
  return `${half(latitude, "N", "S")} ${half(longitude, "E", "W")}`;
}

/** Where a flow begins: a country can have several places. */
const placeOf = (flow) =>
  isNumber(flow.latitude)
    ? `${country(flow.country)}, ${coordinates(flow.latitude, flow.longitude)}`
    : country(flow.country);

/** A label as words: `connect_failed` is "connect failed". */
const words = (label) => String(label ?? UNKNOWN).replaceAll("_", " ");

/** The first few names, and how many more there are. */
function listed(names, most = 4) {
  if (names.length <= most) return names.join(", ");
  return `${names.slice(0, most).join(", ")} and ${names.length - most} more`;
}
