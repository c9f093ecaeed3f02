// The world on a plane: the Equal Earth projection, which keeps areas (Šavrič, Patterson and Jenny, 2018), and great
// circles on it. Degrees in; x from -2.71 to 2.71 and y, northwards, from -1.32 to 1.32 out.

const A1 = 1.340264;
const A2 = -0.081106;
const A3 = 0.000893;
const A4 = 0.003796;
const ROOT3 = Math.sqrt(3);
const radians = (degrees) => (degrees * Math.PI) / 180;
const degrees = (angle) => (angle * 180) / Math.PI;

function projected(longitude, latitude) {
  const t = Math.asin((ROOT3 / 2) * Math.sin(radians(latitude)));
  const t2 = t * t;
  const t6 = t2 * t2 * t2;
  const x = (2 * ROOT3 * radians(longitude) * Math.cos(t)) / (3 * (9 * A4 * t6 * t2 + 7 * A3 * t6 + 3 * A2 * t2 + A1));
  return [x, A4 * t6 * t2 * t + A3 * t6 * t + A2 * t2 * t + A1 * t];
}

const STEPS = 32;

/** The shortest way between two places, as runs of points: two when it crosses the map's edge in the Pacific. */
function greatCircle(from, to) {
  const [a, b] = [onSphere(from), onSphere(to)];
  const angle = Math.acos(Math.min(1, Math.max(-1, a[0] * b[0] + a[1] * b[1] + a[2] * b[2])));
  const runs = [[]];
  let before = null;
  for (let step = 0; step <= STEPS; step += 1) {
    const point = between(a, b, angle, step / STEPS);
    if (before !== null && Math.abs(point[0] - before) > 180) {
      // Both runs are led to the edge of the map, so that no gap shows.
      const side = before > 0 ? 180 : -180;
      runs.at(-1).push([side, point[1]]);
      runs.push([[-side, point[1]]]);
    }
    runs.at(-1).push(point);
    before = point[0];
  }
  return runs;
}

function onSphere([longitude, latitude]) {
  const [lambda, phi] = [radians(longitude), radians(latitude)];
  return [Math.cos(phi) * Math.cos(lambda), Math.cos(phi) * Math.sin(lambda), Math.sin(phi)];
}

function between(a, b, angle, share) {
  const sine = Math.sin(angle);
  const [p, q] =
    sine < 1e-6 ? [1 - share, share] : [Math.sin((1 - share) * angle) / sine, Math.sin(share * angle) / sine];
  const [x, y, z] = a.map((value, ix) => p * value + q * b[ix]);
  return [degrees(Math.atan2(y, x)), degrees(Math.atan2(z, Math.hypot(x, y)))];
}
