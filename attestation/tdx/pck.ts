/**
 * What a PCK certificate says of its platform: extension 1.2.840.113741.1.13.1 (Intel, "SGX PCK Certificate and
 * Certificate Revocation List Profile Specification" 1.5, section 1.3). Every field must be there, each once.
 */
import { hex } from '../bytes.ts'
import { Der, oid, tag } from '../certificates/der.ts'
import type { Certificate } from '../certificates/x509.ts'
import { Malformed, Rejection } from '../errors.ts'

const sgx = '1.2.840.113741.1.13.1'
const sgxOid = oid(sgx)
const tcbArc = `${sgx}.2`
const configurationArc = `${sgx}.7`

/** How the processor protects the memory of SGX enclaves; TD memory has protection of its own. */
export const sgxTypes = ['standard', 'scalable', 'scalable with integrity'] as const

export type Platform = Readonly<{
  /** Platform provisioning identifier of the processor package. */
  ppid: Uint8Array
  /** Of the platform as registered; null on platforms of one package that were not. */
  instanceId: Uint8Array | null
  fmspc: Uint8Array
  pceId: Uint8Array
  sgxType: (typeof sgxTypes)[number]
  /** Sixteen security versions: microcode, firmware, loaders. */
  components: Uint8Array
  cpuSvn: Uint8Array
  pceSvn: number
  /** Null where the certificate does not say. */
  configuration: Readonly<{ dynamicPlatform: boolean; cachedKeys: boolean; smt: boolean }> | null
}>

/** A SEQUENCE of SEQUENCE { identifier, value }: values by identifier, the identifiers being exactly these. */
function fields(from: Der, arcs: readonly string[], optional: readonly string[] = []): Map<string, Der> {
  const known = new Set([...arcs, ...optional])
  const found = new Map<string, Der>()
  while (from.more) {
    const field = from.sequence('SGX field')
    const id = field.oid('SGX field identifier')
    if (!known.has(id) || found.has(id))
      throw new Malformed(`PCK certificate: SGX field ${id} is unknown or stands twice`)
    found.set(id, field)
  }
  const missing = arcs.find(id => !found.has(id))
  if (missing !== undefined) throw new Malformed(`PCK certificate: SGX field ${missing} is missing`)
  return found
}

/** The value of one field, read to its end. */
function value<T>(found: ReadonlyMap<string, Der>, id: string, read: (field: Der) => T): T {
  const field = found.get(id) as Der
  const result = read(field)
  field.end()
  return result
}
const octets =
  (size: number) =>
  (field: Der): Uint8Array => {
    const content = field.content(tag.octetString, 'octets')
    if (content.length !== size)
      throw new Malformed(`PCK certificate: field of ${content.length} bytes, expected ${size}`)
    return content
  }

const componentOids = Array.from({ length: 16 }, (_, i) => oid(`${tcbArc}.${i + 1}`))
const pceSvnOid = oid(`${tcbArc}.17`)
const cpuSvnOid = oid(`${tcbArc}.18`)
function readTcb(field: Der): Pick<Platform, 'components' | 'pceSvn' | 'cpuSvn'> {
  const found = fields(field.sequence('TCB'), [...componentOids, pceSvnOid, cpuSvnOid])
  return {
    components: Uint8Array.from(componentOids, id => value(found, id, svn => svn.small(0xff, 'component SVN'))),
    pceSvn: value(found, pceSvnOid, svn => svn.small(0xffff, 'PCESVN')),
    cpuSvn: value(found, cpuSvnOid, octets(16)),
  }
}

const configurationOids = [1, 2, 3].map(arc => oid(`${configurationArc}.${arc}`)) as [string, string, string]
function readConfiguration(field: Der): Platform['configuration'] {
  const found = fields(field.sequence('configuration'), configurationOids)
  const [dynamicPlatform, cachedKeys, smt] = configurationOids.map(id =>
    value(found, id, flag => flag.boolean('configuration flag')),
  ) as [boolean, boolean, boolean]
  return { dynamicPlatform, cachedKeys, smt }
}

function readSgxType(field: Der): Platform['sgxType'] {
  const [number, ...rest] = field.content(tag.enumerated, 'SGX type')
  const type = sgxTypes[number as number]
  if (type === undefined || rest.length > 0) throw new Malformed('PCK certificate: unknown SGX type')
  return type
}

const [ppidOid, tcbOid, pceIdOid, fmspcOid, typeOid, instanceOid, configurationOid] = [1, 2, 3, 4, 5, 6, 7].map(arc =>
  oid(`${sgx}.${arc}`),
) as [string, string, string, string, string, string, string]

export function readPlatform(pck: Certificate): Platform {
  const extension = pck.extensions.get(sgxOid)
  if (extension === undefined)
    throw new Rejection('endorsement', 'chain-invalid', `${pck.commonName} has no SGX extension`)
  const outer = new Der(extension.value, 'SGX extension')
  const list = outer.sequence('SGX extension')
  outer.end()
  const always = [ppidOid, tcbOid, pceIdOid, fmspcOid, typeOid]
  const found = fields(list, always, [instanceOid, configurationOid])
  return {
    ppid: value(found, ppidOid, octets(16)),
    ...value(found, tcbOid, readTcb),
    pceId: value(found, pceIdOid, octets(2)),
    fmspc: value(found, fmspcOid, octets(6)),
    sgxType: value(found, typeOid, readSgxType),
    instanceId: found.has(instanceOid) ? value(found, instanceOid, octets(16)) : null,
    configuration: found.has(configurationOid) ? value(found, configurationOid, readConfiguration) : null,
  }
}

export const platformText = ({ fmspc, sgxType }: Platform): string => `FMSPC ${hex(fmspc)}, ${sgxType} SGX`
