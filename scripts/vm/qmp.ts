/** QEMU's monitor: one JSON object a line (QMP specification). */
import { connect, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'

const CONNECT_PATIENCE_MS = 30_000

type Reply = Readonly<{ return?: unknown; error?: { desc: string }; event?: string; QMP?: unknown }>

async function reach(path: string): Promise<Socket> {
  for (const end = performance.now() + CONNECT_PATIENCE_MS; ; await sleep(50)) {
    const socket = connect(path)
    const failed = await new Promise<Error | null>(done => {
      socket.once('connect', () => done(null))
      socket.once('error', done)
    })
    if (failed === null) return socket
    if (performance.now() > end) throw failed
  }
}

export class Monitor {
  readonly #socket: Socket
  #waiting: { done: (value: unknown) => void; fail: (error: Error) => void }[] = []
  readonly #events = new Map<string, (() => void)[]>()

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.on('error', () => {})
    socket.on('close', () => {
      for (const { fail } of this.#waiting) fail(new Error('the virtual machine has ended'))
      this.#waiting = []
    })
    const lines = createInterface({ input: socket })
    lines.on('line', line => this.#heard(JSON.parse(line) as Reply))
    lines.on('error', () => {}) // 'close' of the socket follows
  }

  static async connect(path: string): Promise<Monitor> {
    const monitor = new Monitor(await reach(path))
    await monitor.run('qmp_capabilities')
    return monitor
  }

  #heard(reply: Reply): void {
    if (reply.event !== undefined) {
      for (const tell of this.#events.get(reply.event) ?? []) tell()
      this.#events.delete(reply.event)
    }
    if (reply.return === undefined && reply.error === undefined) return
    const waiting = this.#waiting.shift()
    if (reply.error !== undefined) waiting?.fail(new Error(reply.error.desc))
    else waiting?.done(reply.return)
  }

  run(execute: string, args: object = {}): Promise<unknown> {
    return new Promise((done, fail) => {
      this.#waiting.push({ done, fail })
      this.#socket.write(`${JSON.stringify({ execute, arguments: args })}\n`)
    })
  }

  /** The next event of that name; ask before causing it. */
  next(event: string): Promise<void> {
    return new Promise(done => {
      this.#events.set(event, [...(this.#events.get(event) ?? []), done])
    })
  }

  close(): void {
    this.#socket.destroy()
  }
}
