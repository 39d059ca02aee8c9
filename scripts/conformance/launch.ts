// launch-digest, tdx-measurement
import { decode } from 'cbor-x'
import { hex } from '../../attestation/bytes.ts'
import { Rejection } from '../../attestation/errors.ts'
import { firmwareDigest, type Launch, launchDigest } from '../../attestation/snp/launch-digest.ts'
import { hypervisors, modelSignature } from '../../attestation/snp/vmsa.ts'
import { directBootRtmrs } from '../../attestation/tdx/measure.ts'
import { checkEqual, type Kind } from './kind.ts'
import { expectEqual, type Json, Mismatch, unhex } from './manifest.ts'
import { tdBody } from './td-body.ts'

function launchOf(input: Json, firmware: Uint8Array): Launch {
  const { mode, kernelHex, initrdHex, cmdline, vcpus, vcpuType, vcpuSig, guestFeatures, vmm, ovmfHash } = input
  if (mode !== 'snp') throw new Mismatch(`launch mode "${String(mode)}"`)
  const hypervisor = hypervisors.find(name => name === vmm)
  if (hypervisor === undefined) throw new Mismatch(`hypervisor "${String(vmm)}"`)
  if (typeof vcpuType === 'string') expectEqual(`signature of ${vcpuType}`, modelSignature(vcpuType), vcpuSig)
  const bytes = (text: unknown) => unhex((text as string | null) ?? '')
  return {
    firmware,
    firmwareDigest: typeof ovmfHash === 'string' ? unhex(ovmfHash) : null,
    boot:
      kernelHex === null
        ? null
        : { kernel: bytes(kernelHex), initrd: bytes(initrdHex), cmdline: (cmdline as string | null) ?? '' },
    processors: {
      count: vcpus as number,
      signature: vcpuSig as number,
      features: BigInt(guestFeatures as number),
      hypervisor,
    },
  }
}

export const launchDigestKind: Kind = {
  verify(entry, vectors) {
    const launch = launchOf(entry.input as Json, vectors.file(entry, 'ovmf'))
    const p = vectors.primitives
    const found = launchDigest(p, launch)
    checkEqual('launch digest', hex(found), entry.expected['measurement'])
    if (launch.firmwareDigest === null) {
      const again = launchDigest(p, { ...launch, firmwareDigest: firmwareDigest(p, launch.firmware) })
      expectEqual('launch digest from that of the firmware', hex(again), hex(found))
    }
    return Promise.resolve()
  },
  appraise: null,
  codes: {},
  covered: [],
}

type MeasurementDocument = Readonly<{
  image: Readonly<{ cmdline_sha384: Uint8Array; kernel_authenticode: Uint8Array; initrd_sha384: Uint8Array }>
  tdvf: Readonly<{ mrtd: Readonly<{ single_pass: Uint8Array; two_pass: Uint8Array }> }>
}>

export const tdxMeasurement: Kind = {
  verify(entry, vectors) {
    const body = tdBody(vectors.file(entry, 'quote'))
    const { image, tdvf } = decode(vectors.file(entry, 'cbor')) as MeasurementDocument
    const known = Object.values(tdvf.mrtd).map(hex)
    checkEqual('MRTD of the quote', hex(body.mrTd), entry.expected['mrTd'])
    if (!known.includes(hex(body.mrTd))) throw new Rejection('measurement', 'measurement', 'MRTD is not of this image')
    const digests = { cmdline: image.cmdline_sha384, kernel: image.kernel_authenticode, initrd: image.initrd_sha384 }
    const { rtmr1, rtmr2 } = directBootRtmrs(vectors.primitives, digests)
    checkEqual('RTMR1', hex(body.rtmrs[1] as Uint8Array), hex(rtmr1))
    checkEqual('RTMR2', hex(body.rtmrs[2] as Uint8Array), hex(rtmr2))
    return Promise.resolve()
  },
  appraise: null,
  codes: {},
  covered: [],
}
