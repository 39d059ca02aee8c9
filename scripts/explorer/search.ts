/**
 * Every interleaving of one session of each of two clients and two pods under the attacker's moves. A refused delivery
 * ends its role and tells the attacker nothing, so a state after one can do no more than the state before: it counts as
 * a trace, once for each history of its role, and is not followed. States that differ only in the order of independent
 * steps are one state, and the two pods, which differ in name alone, start in one order. A trace is a delivery in a state.
 */
import { hex } from '../../attestation/bytes.ts'
import { after, Attacker, kemKeyGiven, type Message, type Move, type Seen, type World } from './attacker.ts'
import type { Client, Pod, Progress, Role } from './roles.ts'

export type Property = 'secrecy' | 'owner authentication' | 'pod authentication' | 'relay'
export const properties: readonly Property[] = ['secrecy', 'owner authentication', 'pod authentication', 'relay']

export type Cast = Readonly<{
  world: World
  /** Pinned to the honest chip: its key is the secret. */
  honestClient: Client
  /** Of the same owner, pinned to the broken chip. */
  deceivedClient: Client
  pods: readonly [Pod, Pod]
}>

export type Found = Readonly<{
  /** For each property that falls, a trace that shows it. */
  broken: ReadonlyMap<Property, readonly string[]>
  /** The key arrives where it should. */
  reachable: boolean
  traces: number
  states: number
  /** False where the bound on traces ended the search. */
  complete: boolean
}>

/** A role after what was delivered to it. */
type Node = Seen & Readonly<{ id: number; role: Role; steps: readonly Progress[]; next: Map<string, Node | null> }>
type State = Readonly<{ nodes: readonly [Node, Node, Node, Node]; trace: readonly string[] }>

const last = (node: Node): Progress => node.steps.at(-1) as Progress

export class Search {
  readonly #cast: Cast
  readonly #attacker: Attacker
  readonly #bound: number
  readonly #broken = new Map<Property, readonly string[]>()
  readonly #options = new Map<string, Promise<readonly Node[]>>()
  #ids = 0
  #traces = 0
  #reachable = false

  constructor(cast: Cast, bound: number) {
    this.#cast = cast
    this.#attacker = new Attacker(cast.world)
    this.#bound = bound
  }

  async run(): Promise<Found> {
    const { honestClient, deceivedClient, pods } = this.#cast
    const nodes: Node[] = []
    for (const role of [honestClient, deceivedClient, ...pods]) nodes.push(await this.#start(role))
    const first: State = { nodes: nodes as unknown as State['nodes'], trace: [] }
    const seen = new Set([key(first)])
    const open = [first] // breadth first: the first trace to break a property is a shortest one
    for (let at = 0; at < open.length && this.#traces < this.#bound; at++) {
      for (const next of await this.#after(open[at] as State)) {
        if (seen.has(key(next))) continue
        seen.add(key(next))
        await this.#judge(next)
        open.push(next)
      }
    }
    return {
      broken: this.#broken,
      reachable: this.#reachable,
      traces: this.#traces,
      states: seen.size,
      complete: this.#traces < this.#bound,
    }
  }

  async #start(role: Role): Promise<Node> {
    const progress = (await role.run([])) as Progress
    return this.#node(role, [], [progress])
  }
  #node(role: Role, heard: readonly Message[], steps: readonly Progress[]): Node {
    return { id: this.#ids++, role, name: role.name, heard, steps, said: steps.map(step => step.said), next: new Map() }
  }

  async #after({ nodes, trace }: State): Promise<State[]> {
    const next: State[] = []
    for (const [at, node] of nodes.entries()) {
      if (at === 3 && nodes[2].heard.length === 0) continue
      for (const child of await this.#deliveries(nodes, at)) {
        this.#traces++
        const delivered = `${node.role.name} gets ${child.heard.at(-1)?.name}`
        next.push({ nodes: nodes.with(at, child) as unknown as State['nodes'], trace: [...trace, delivered] })
      }
    }
    return next
  }

  /** What depends on the same part of what was heard is worked out once. */
  #deliveries(nodes: State['nodes'], at: number): Promise<readonly Node[]> {
    const target = nodes[at] as Node
    const depth = target.heard.length
    const pod = at >= 2
    if (depth === (pod ? 3 : 2)) return Promise.resolve([])
    const [c1, c2, p1, p2] = nodes
    const known = [target.id, ...relevant(pod, depth).map((messages, i) => after(nodes[i] as Node, messages))].join(
      ' | ',
    )
    const options = this.#options.get(known) ?? this.#try(target, this.#moves(target, [c1, c2], [p1, p2], pod, depth))
    this.#options.set(known, options)
    return options
  }

  #moves(target: Node, clients: readonly Node[], pods: readonly Node[], pod: boolean, depth: number): Promise<Move[]> {
    if (pod) {
      if (depth === 0) return Promise.resolve(this.#attacker.hellos(clients))
      return depth === 1 ? this.#attacker.auths(target, clients) : this.#attacker.releases(target, clients)
    }
    return depth === 0 ? this.#attacker.podHellos(target, clients, pods) : this.#attacker.fins(clients, pods)
  }

  async #try(target: Node, moves: Promise<Move[]>): Promise<readonly Node[]> {
    const reached: Node[] = []
    for (const move of await moves) {
      const child = target.next.has(move.name) ? target.next.get(move.name) : await this.#deliver(target, move)
      if (child) reached.push(child)
    }
    return reached
  }

  async #deliver(target: Node, move: Move): Promise<Node | null> {
    const message = await move.make()
    const heard = [...target.heard, message]
    const progress = await target.role.run(heard.map(each => each.bytes))
    const child = progress && this.#node(target.role, heard, [...target.steps, progress])
    if (child === null) this.#traces++
    target.next.set(move.name, child)
    return child
  }

  async #judge({ nodes, trace }: State): Promise<void> {
    const [honest, deceived, ...pods] = nodes
    const clients = [honest, deceived]
    const done = clients.filter(node => node.heard.length === 2)
    const ready = pods.filter(node => node.heard.length >= 2)
    const keyed = pods.filter(node => node.heard.length === 3)

    if (!injective(keyed, done, node => `${last(node).session} ${last(node).key}`))
      this.#breaks('owner authentication', trace)
    if (honest.heard.length === 2) {
      if (!injective([honest], ready, node => last(node).session as string)) this.#breaks('pod authentication', trace)
      if (!this.#broken.has('relay') && !this.#fromGenuinePod(honest)) this.#breaks('relay', trace)
      if (!this.#broken.has('secrecy') && (await this.#readable(honest))) this.#breaks('secrecy', trace)
    }
    this.#reachable ||= keyed.some(node => last(node).key === hex(this.#cast.honestClient.key))
  }
  #breaks(property: Property, trace: readonly string[]): void {
    if (!this.#broken.has(property)) this.#broken.set(property, trace)
  }

  readonly #read = new Map<number, Promise<boolean>>()
  #readable(node: Node): Promise<boolean> {
    const known = this.#read.get(node.id) ?? this.#attacker.reads(node, this.#cast.honestClient.key)
    this.#read.set(node.id, known)
    return known
  }
  #fromGenuinePod(client: Node): boolean {
    const { repeatable, endedPod } = this.#cast.world
    const maker = repeatable.madeBy(kemKeyGiven(client))
    return [...this.#cast.pods, endedPod].some(pod => pod.name === maker)
  }
}

const key = ({ nodes }: State): string => nodes.map(node => node.id).join(' ')
/** Of each of the four roles, how many messages bear on what can be delivered to a client or pod at this depth. */
function relevant(pod: boolean, depth: number): readonly number[] {
  if (pod)
    return [
      [0, 0, 0, 0],
      [1, 1, 0, 0],
      [2, 2, 0, 0],
    ][depth] as number[]
  return [
    [0, 0, 1, 1],
    [1, 1, 2, 2],
  ][depth] as number[]
}

/** Each of `those` has one of `these` to itself that means the same session. */
function injective(those: readonly Node[], these: readonly Node[], meaning: (node: Node) => string): boolean {
  const left = these.map(meaning)
  return those.map(meaning).every(each => {
    const at = left.indexOf(each)
    if (at >= 0) left.splice(at, 1)
    return at >= 0
  })
}
