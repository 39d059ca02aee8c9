/** Counters in Prometheus' text format. No path, address, session or owner ever becomes a label. */

export const routes = ['hello', 'auth', 'control', 'stream', 'pas', 'collateral', 'rest'] as const
export type Route = (typeof routes)[number]

/** Upper bounds in seconds. */
const bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60]

class Histogram {
  readonly counts = new Float64Array(bounds.length + 1)
  sum = 0
  count = 0
  observe(seconds: number): void {
    let i = 0
    while (i < bounds.length && seconds > (bounds[i] as number)) i++
    this.counts[i] = (this.counts[i] as number) + 1
    this.sum += seconds
    this.count++
  }
}

/** Values that are read when somebody asks. */
export type Gauges = Readonly<Record<string, () => number>>

export class Metrics {
  readonly #requests = new Map<string, number>()
  readonly #latency = Object.fromEntries(routes.map(route => [route, new Histogram()])) as Record<Route, Histogram>
  readonly #gauges: Gauges
  bytesIn = 0
  bytesOut = 0

  /** Keys of `gauges` are metric names, labels included. */
  constructor(gauges: Gauges) {
    this.#gauges = gauges
  }

  answered(route: Route, status: number, milliseconds: number): void {
    const key = `route="${route}",status="${status}"`
    this.#requests.set(key, (this.#requests.get(key) ?? 0) + 1)
    this.#latency[route].observe(milliseconds / 1000)
  }

  text(): string {
    const lines = ['# TYPE pod_edge_requests_total counter']
    for (const [labels, count] of this.#requests) lines.push(`pod_edge_requests_total{${labels}} ${count}`)
    lines.push('# TYPE pod_edge_body_bytes_total counter')
    lines.push(`pod_edge_body_bytes_total{direction="in"} ${this.bytesIn}`)
    lines.push(`pod_edge_body_bytes_total{direction="out"} ${this.bytesOut}`)
    lines.push('# TYPE pod_edge_request_seconds histogram')
    for (const route of routes) lines.push(...this.#histogram(route))
    for (const [name, value] of Object.entries(this.#gauges)) lines.push(`${name} ${value()}`)
    return `${lines.join('\n')}\n`
  }

  #histogram(route: Route): string[] {
    const { counts, sum, count } = this.#latency[route]
    if (count === 0) return []
    let below = 0
    const rows = bounds.map((bound, i) => {
      below += counts[i] as number
      return `pod_edge_request_seconds_bucket{route="${route}",le="${bound}"} ${below}`
    })
    rows.push(`pod_edge_request_seconds_bucket{route="${route}",le="+Inf"} ${count}`)
    rows.push(
      `pod_edge_request_seconds_sum{route="${route}"} ${sum}`,
      `pod_edge_request_seconds_count{route="${route}"} ${count}`,
    )
    return rows
  }
}
