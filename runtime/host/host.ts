/** Many pods on one machine: what the verbs of `pod host` do. */
import { Rejection } from '../../attestation/errors.ts'
import { type Haproxy, haproxyConfig, type RoutedPod } from './haproxy.ts'
import type { Machines } from './machines.ts'
import type { HostedPod, PodSize, Registry } from './registry.ts'

/** One line of `list`. */
export type Listed = HostedPod &
  Readonly<{
    running: boolean
    /** When its route ends, in seconds; null where there is none in force. */
    routeExpires: number | null
    /** Why there is no route in force. */
    noRoute: string | null
  }>

export class Host {
  readonly registry: Registry
  readonly #machines: Machines
  readonly #router: Haproxy
  readonly #now: () => number

  /** @param now seconds since 1970: routes end by the hoster's clock */
  constructor(registry: Registry, machines: Machines, router: Haproxy, now: () => number) {
    this.registry = registry
    this.#machines = machines
    this.#router = router
    this.#now = now
  }

  /** A pod that is new here, or a newer route of one that is not; what runs goes on. */
  async add(launchConfig: Uint8Array, route: Uint8Array | null, size: PodSize): Promise<HostedPod> {
    const pod = await this.registry.add(launchConfig, route, size, this.#now())
    if (this.#running().length > 0) await this.#route()
    return pod
  }

  list(): Promise<Listed[]> {
    return Promise.all(
      this.registry.pods.map(async pod => {
        const route = await this.registry.route(pod, this.#now())
        const none = 'none' in route
        return {
          ...pod,
          running: this.#machines.isRunning(this.registry.files(pod)),
          routeExpires: none ? null : route.expires,
          noRoute: none ? route.none : null,
        }
      }),
    )
  }

  #named(ids: readonly string[]): readonly HostedPod[] {
    return ids.length === 0 ? this.registry.pods : ids.map(id => this.registry.pod(id))
  }

  #running(): readonly HostedPod[] {
    return this.registry.pods.filter(pod => this.#machines.isRunning(this.registry.files(pod)))
  }

  /**
   * The configuration of the router as signed routes and running machines make it.
   * @param leaving pods that still run and get no more connections
   */
  async routerConfig(leaving: readonly HostedPod[] = []): Promise<string> {
    const gone = new Set(leaving.map(({ id }) => id))
    const routed = (await this.list()).flatMap(({ id, rid, port, running, routeExpires }): RoutedPod[] => {
      const address = running && !gone.has(id) ? `127.0.0.1:${port}` : null
      return routeExpires === null ? [] : [{ id, rid, address, expires: routeExpires }]
    })
    return haproxyConfig(routed, this.registry.settings, this.registry.folder)
  }

  async #route(leaving: readonly HostedPod[] = []): Promise<void> {
    await this.#router.apply(await this.routerConfig(leaving))
  }

  /** Starts these pods, all where none is named, one after the other; then the router sends connections to them. */
  async up(ids: readonly string[], onPod: (pod: HostedPod) => void = () => {}): Promise<void> {
    if (this.registry.pods.length === 0) {
      throw new Rejection('data', 'not-found', 'no pod is here: pod host add FOLDER takes one in')
    }
    for (const pod of this.#named(ids)) {
      onPod(pod)
      await this.#machines.start(pod, this.registry.files(pod))
      await this.#route()
    }
  }

  /** The router stops sending first; then the machines end. */
  async down(ids: readonly string[]): Promise<void> {
    const pods = this.#named(ids)
    const stays = this.#running().filter(pod => !pods.includes(pod))
    if (stays.length > 0) await this.#route(pods)
    for (const pod of pods) await this.#machines.stop(pod, this.registry.files(pod))
    if (stays.length === 0) await this.#router.stop()
  }

  /** Forgets a pod that is down, and deletes its disk. */
  async remove(id: string): Promise<void> {
    const pod = this.registry.pod(id)
    if (this.#machines.isRunning(this.registry.files(pod))) {
      throw new Rejection('data', 'conflict', `pod ${pod.id} runs: pod host down ${pod.id} first`)
    }
    this.registry.remove(pod.id)
    if (this.#running().length > 0) await this.#route()
  }
}
