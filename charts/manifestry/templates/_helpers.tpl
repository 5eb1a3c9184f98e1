{{- define "manifestry.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- define "manifestry.fullname" -}}
{{- if .Values.fullnameOverride -}}{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "manifestry.name" .) .Release.Name -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name (include "manifestry.name" .) | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end -}}
{{- define "manifestry.selector" -}}
app.kubernetes.io/name: {{ include "manifestry.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{- define "manifestry.labels" -}}
{{ include "manifestry.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}
{{- define "manifestry.image" -}}
{{- if .Values.image.digest -}}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}
{{- define "manifestry.webhookSecret" -}}
{{- default (printf "%s-webhook-tls" (include "manifestry.fullname" .)) .Values.webhook.certificates.secretName -}}
{{- end -}}
{{- define "manifestry.webhookPathSecret" -}}
{{- printf "%s-webhook-path" (include "manifestry.fullname" .) -}}
{{- end -}}
{{- define "manifestry.claim" -}}
{{- default (printf "%s-data" (include "manifestry.fullname" .)) .Values.storage.persistence.existingClaim -}}
{{- end -}}
{{- define "manifestry.storeEnv" -}}
- name: MANIFESTRY_STORE_TYPE
  value: {{ .Values.storage.type | quote }}
- name: MANIFESTRY_STORE_TIMEOUT_SECONDS
  value: {{ .Values.storage.timeoutSeconds | quote }}
{{- if not (kindIs "invalid" .Values.storage.reserveBytes) }}
- name: MANIFESTRY_STORE_RESERVE_BYTES
  value: {{ int64 .Values.storage.reserveBytes | quote }}
{{- end }}
- name: MANIFESTRY_GC_GRACE_SECONDS
  value: {{ int64 .Values.storage.garbage.graceSeconds | quote }}
- name: MANIFESTRY_GC_TENANT_GRACE_SECONDS
  value: {{ int64 .Values.storage.garbage.tenantGraceSeconds | quote }}
- name: MANIFESTRY_UPLOAD_EXPIRY_SECONDS
  value: {{ int64 .Values.storage.uploadExpirySeconds | quote }}
{{- if eq .Values.storage.type "local" }}
- name: MANIFESTRY_STORE_PATH
  value: /var/lib/manifestry
{{- else }}
- name: MANIFESTRY_STORE_BUCKET
  value: {{ required "`storage.bucket` must be set for a remote store" .Values.storage.bucket | quote }}
- name: MANIFESTRY_STORE_PREFIX
  value: {{ .Values.storage.prefix | quote }}
- name: MANIFESTRY_STORE_ENDPOINT
  value: {{ .Values.storage.endpoint | quote }}
- name: MANIFESTRY_STORE_REGION
  value: {{ .Values.storage.region | quote }}
- name: MANIFESTRY_STORE_ALLOW_HTTP
  value: {{ .Values.storage.allowHttp | quote }}
- name: MANIFESTRY_STORE_CHECKSUMS
  value: {{ .Values.storage.checksums | quote }}
{{- if eq .Values.storage.type "azure" }}
- name: MANIFESTRY_STORE_ACCESS_KEY_ID
  value: {{ required "`storage.account` must be set for azure" .Values.storage.account | quote }}
{{- end }}
{{- with .Values.storage.existingSecret }}
{{- if eq $.Values.storage.type "s3" }}
- name: MANIFESTRY_STORE_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ . }}, key: accessKeyId}}
{{- end }}
- name: MANIFESTRY_STORE_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ get (dict "s3" "secretAccessKey" "gcs" "serviceAccountKey" "azure" "accountKey") $.Values.storage.type }}}}
{{- end }}
{{- with .Values.storage.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
- name: MANIFESTRY_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: MANIFESTRY_LEASE_NAME
  value: {{ include "manifestry.fullname" . }}-operator
- name: MANIFESTRY_WEBHOOK_SECRET
  value: {{ include "manifestry.webhookSecret" . }}
- name: MANIFESTRY_WEBHOOK_PATH_SECRET
  value: {{ include "manifestry.webhookPathSecret" . }}
- name: MANIFESTRY_WEBHOOK_ENABLED
  value: {{ .Values.webhook.enabled | quote }}
- name: MANIFESTRY_WEBHOOK_CONFIGURATION
  value: {{ include "manifestry.fullname" . }}
{{- end -}}
{{- define "manifestry.volumes" -}}
- name: tmp
  emptyDir: {medium: Memory, sizeLimit: 64Mi}
{{- if eq .Values.storage.type "local" }}
- name: data
  persistentVolumeClaim: {claimName: {{ include "manifestry.claim" . }}}
{{- end }}
{{- end -}}
{{- define "manifestry.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if eq .Values.storage.type "local" }}
- {name: data, mountPath: /var/lib/manifestry}
{{- end }}
{{- end -}}
