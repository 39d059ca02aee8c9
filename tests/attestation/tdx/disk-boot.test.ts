import * as nodeCrypto from 'node:crypto'
import test from 'ava'
import fc from 'fast-check'
import { concat, utf8 } from '../../../attestation/bytes.ts'
import { Refusal } from '../../../attestation/errors.ts'
import { partitionTableEvent } from '../../../attestation/event-log/partition-table.ts'
import { authenticode } from '../../../attestation/event-log/pe.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { diskBootRtmrs } from '../../../attestation/tdx/disk-boot.ts'
import { pcr5 } from '../../../attestation/tpm/uki.ts'
import { peImage } from '../../support/firmware.ts'
import { codeOf } from '../../support/refusals.ts'

const p = nodePrimitives(nodeCrypto)
const SECTOR = 512

/** A disk's first sectors with a table of two used entries among four. */
function disk(change: (view: DataView) => void = () => {}): Uint8Array {
  const bytes = new Uint8Array(4 * SECTOR)
  const view = new DataView(bytes.buffer)
  bytes.set(utf8('EFI PART'), SECTOR)
  view.setBigUint64(SECTOR + 72, 2n, true)
  view.setUint32(SECTOR + 80, 4, true)
  view.setUint32(SECTOR + 84, 128, true)
  bytes.fill(1, 2 * SECTOR, 2 * SECTOR + 128)
  bytes.fill(2, 2 * SECTOR + 256, 2 * SECTOR + 384)
  change(view)
  return bytes
}

const kernel = peImage([{ name: '.text', content: new Uint8Array(512).fill(3) }])
const image = peImage([
  { name: '.cmdline', content: utf8('quiet') },
  { name: '.initrd', content: utf8('initrd') },
  { name: '.linux', content: kernel },
])

test('the event is the header, how many partitions there are, and their entries', t => {
  const event = partitionTableEvent(disk())
  const one = new Uint8Array(128).fill(1)
  const two = new Uint8Array(128).fill(2)
  t.deepEqual(event, concat(disk().subarray(SECTOR, SECTOR + 92), Uint8Array.of(2, 0, 0, 0, 0, 0, 0, 0), one, two))
})

test('RTMR1 and RTMR2 are these events in this order', t => {
  const extend = (data: readonly Uint8Array[]) =>
    data.reduce((register, digest) => p.sha384(concat(register, digest)), new Uint8Array(48) as Uint8Array)
  const texts = (...list: string[]) => list.map(text => p.sha384(utf8(text)))
  const wide = (text: string) => concat(...[...text].map(letter => Uint8Array.of(letter.charCodeAt(0), 0)))
  const { rtmr1, rtmr2 } = diskBootRtmrs(p, { disk: disk(), image })
  const started = [
    ...texts('Calling EFI Application from Boot Option'),
    p.sha384(new Uint8Array(4)),
    p.sha384(partitionTableEvent(disk())),
    authenticode(p, 'SHA-384', image),
    authenticode(p, 'SHA-384', kernel),
    ...texts('Exit Boot Services Invocation', 'Exit Boot Services Returned with Success'),
  ]
  const linux = [p.sha384(utf8('.linux\0')), p.sha384(kernel)]
  const rest = texts('.cmdline\0', 'quiet', '.initrd\0', 'initrd')
  t.deepEqual(rtmr1, extend(started))
  t.deepEqual(rtmr2, extend([...linux, ...rest, p.sha384(wide('quiet\0')), ...texts('initrd')]))
})

test('another table, image or command line is another measurement', t => {
  const base = diskBootRtmrs(p, { disk: disk(), image })
  const moved = diskBootRtmrs(p, { disk: disk(view => view.setUint8(2 * SECTOR, 9)), image })
  t.notDeepEqual(moved.rtmr1, base.rtmr1)
  t.deepEqual(moved.rtmr2, base.rtmr2)
  const other = peImage([
    { name: '.cmdline', content: utf8('other') },
    { name: '.linux', content: kernel },
  ])
  t.notDeepEqual(diskBootRtmrs(p, { disk: disk(), image: other }).rtmr2, base.rtmr2)
  t.notDeepEqual(pcr5(p, 'SHA-256', partitionTableEvent(disk())), pcr5(p, 'SHA-256', new Uint8Array()))
})

const refused: Record<string, Uint8Array> = {
  'cut before the header': disk().slice(0, SECTOR),
  'without its name': disk(view => view.setUint8(SECTOR, 0)),
  'with entries of another size': disk(view => view.setUint32(SECTOR + 84, 256, true)),
  'with too many entries': disk(view => view.setUint32(SECTOR + 80, 129, true)),
  'with entries outside': disk(view => view.setBigUint64(SECTOR + 72, 4n, true)),
  'with entries far outside': disk(view => view.setBigUint64(SECTOR + 72, 2n ** 64n - 1n, true)),
}
for (const [what, bytes] of Object.entries(refused)) {
  test(`a table ${what} is refused`, async t => {
    t.is(await codeOf(() => partitionTableEvent(bytes)), 'malformed')
  })
}

test('a changed table is read or refused, never anything else', t => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.integer({ min: SECTOR, max: SECTOR + 92 }), fc.nat(255))), changes => {
      const bytes = disk()
      for (const [at, value] of changes) bytes[at] = value
      try {
        partitionTableEvent(bytes)
      } catch (error) {
        return error instanceof Refusal
      }
      return true
    }),
  )
  t.pass()
})
