/**
 * RTMR1 and RTMR2 of a TD that starts a unified kernel image from a disk: what OVMF, the image's stub and the kernel
 * measure, in their order (UEFI 2.10, 38.4.1: PCR 2 to 6 are RTMR1, PCR 8 to 15 RTMR2).
 */
import { utf8 } from '../bytes.ts'
import { partitionTableEvent } from '../event-log/partition-table.ts'
import { replayRtmrs } from '../event-log/replay.ts'
import type { Primitives } from '../primitives/primitives.ts'
import { applicationsOf, kernelDigests, sectionDigests } from '../tpm/uki.ts'
import { actions } from './measure.ts'

/** @param disk as for {@link partitionTableEvent}; `image` is what the firmware starts from it. */
export function diskBootRtmrs(
  p: Primitives,
  { disk, image }: Readonly<{ disk: Uint8Array; image: Uint8Array }>,
): { rtmr1: Uint8Array; rtmr2: Uint8Array } {
  const texts = (list: readonly string[]) => list.map(text => p.sha384(utf8(text)))
  const started = [
    ...texts(actions.before),
    p.sha384(new Uint8Array(4)), // one separator, where PCRs 2 to 6 get one each
    p.sha384(partitionTableEvent(disk)),
    ...applicationsOf(p, 'SHA-384', image),
    ...texts(actions.after),
  ]
  const loaded = [...sectionDigests(p, 'SHA-384', image), ...kernelDigests(p, 'SHA-384', image)]
  const rtmrs = replayRtmrs(p, [
    ...started.map(digest => ({ register: 2, digest })),
    ...loaded.map(digest => ({ register: 3, digest })),
  ])
  return { rtmr1: rtmrs[1] as Uint8Array, rtmr2: rtmrs[2] as Uint8Array }
}
