{{/* Models of other providers: settings of the generator, keys, egress, and names for training. */}}

{{/* Non-empty if an external model answers all users. */}}
{{- define "thumbwheel.external" -}}{{ if eq .Values.serving.mode "external" }}yes{{ end }}{{- end -}}

{{/* Name in externalModels.models of the model that answers all users. */}}
{{- define "thumbwheel.externalModel" -}}
{{- .Values.serving.external.model | default (keys .Values.externalModels.models | sortAlpha | first) -}}
{{- end -}}

{{/* Setting external_models of the generator as YAML. */}}
{{- define "thumbwheel.externalModels" -}}
{{- $models := dict -}}
{{- range $name, $given := .Values.externalModels.models -}}
  {{- $model := dict -}}
  {{- range $key, $value := omit $given "secretKey" "train" -}}{{- $_ := set $model (snakecase $key) $value -}}{{- end -}}
  {{- with $given.secretKey -}}{{- $_ := set $model "key_file" (printf "/external-models/%s" .) -}}{{- end -}}
  {{- $_ := set $models $name $model -}}
{{- end -}}
{{- toYaml $models -}}
{{- end -}}

{{/* Keys of the secret that models use, sorted, as JSON. */}}
{{- define "thumbwheel.externalKeys" -}}
{{- $keys := list -}}
{{- range .Values.externalModels.models -}}{{- with .secretKey -}}{{- $keys = append $keys . -}}{{- end -}}{{- end -}}
{{- $keys | uniq | sortAlpha | toJson -}}
{{- end -}}

{{- define "thumbwheel.externalMount" -}}
{{- if ne (include "thumbwheel.externalKeys" .) "[]" }}
- {name: external-models, mountPath: /external-models, readOnly: true}
{{- end }}
{{- end -}}

{{/* Optional: without the secret only the external models fail, not the pods that answer users. */}}
{{- define "thumbwheel.externalVolume" -}}
{{- if ne (include "thumbwheel.externalKeys" .) "[]" }}
- name: external-models
  secret:
    secretName: {{ .Values.externalModels.existingSecret }}
    optional: true
    items:
      {{- range include "thumbwheel.externalKeys" . | fromJsonArray }}
      - {key: {{ . | quote }}, path: {{ . | quote }}}
      {{- end }}
{{- end }}
{{- end -}}

{{/* Egress rules of the generator: those of the values, or every address at the ports of the URLs. */}}
{{- define "thumbwheel.externalEgress" -}}
{{- with .Values.externalModels -}}
{{- if .egress -}}
{{ include "thumbwheel.egressRules" .egress }}
{{- else if .models -}}
{{- $ports := list -}}
{{- range .models -}}
  {{- $ports = append $ports (include "thumbwheel.portOfUrl" .url | int) -}}
{{- end -}}
{{ include "thumbwheel.everywhere" ($ports | uniq | sortAlpha | toJson) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Arguments of the loop with the models whose answers may train, as JSON. */}}
{{- define "thumbwheel.externalWords" -}}
{{- $names := list -}}
{{- range $name, $model := .Values.externalModels.models -}}{{- if $model.train -}}{{- $names = append $names $name -}}{{- end -}}{{- end -}}
{{- if $names -}}{{ list "--set" (printf "snapshot.train_external=%s" ($names | sortAlpha | join ",")) | toJson }}{{- else -}}[]{{- end -}}
{{- end -}}

{{- define "thumbwheel.validateExternal" -}}
{{- $v := .Values.externalModels -}}
{{- $external := .Values.serving.external -}}
{{- if include "thumbwheel.external" . -}}
  {{- if not $v.models -}}{{ println "externalModels.models: serving.mode external needs the model that answers" }}
  {{- else if and (not $external.model) (gt (len $v.models) 1) -}}{{ println (printf "serving.external.model: several externalModels.models; name the one that answers: %s" (keys $v.models | sortAlpha | join ", ")) }}
  {{- else if not (hasKey $v.models (include "thumbwheel.externalModel" .)) -}}{{ println (printf "serving.external.model: %s is not in externalModels.models" $external.model) }}{{- end -}}
  {{- if .Values.training.enabled -}}{{ println "training.enabled: serving.mode external has no model of its own that could be trained, tried on users or promoted; set it to false, or serving.mode to deployment or kserve" }}{{- end -}}
  {{- range $name := list "existingClaim" "store" -}}
    {{- if index $.Values.models $name -}}{{ println (printf "models.%s: serving.mode external reads no models" $name) }}{{- end -}}
  {{- end -}}
  {{- range $name := list "source" "tokenSecret" "hub" "chatTemplate" -}}
    {{- if index $.Values.models.import $name -}}{{ println (printf "models.import.%s: serving.mode external reads no models" $name) }}{{- end -}}
  {{- end -}}
  {{- if ge (int $external.replyTokens) (int $external.contextTokens) -}}{{ println "serving.external.replyTokens: is not below contextTokens, so that no context would fit" }}{{- end -}}
{{- else if $external.model -}}{{ println (printf "serving.external.model: serving.mode %s does not use it" .Values.serving.mode) }}
{{- end -}}
{{- range $name, $model := $v.models -}}
  {{- if and $model.secretKey (not $v.existingSecret) -}}{{ println (printf "externalModels.existingSecret: externalModels.models.%s.secretKey names a key of that secret" $name) }}{{- end -}}
{{- end -}}
{{- range $name, $model := $v.models -}}
  {{- if not (include "thumbwheel.isEncrypted" $model.url) -}}{{ println (printf "externalModels.models.%s.url: must begin with https://, except for a host inside the cluster (NAME.NAMESPACE.svc)" $name) }}{{- end -}}
{{- end -}}
{{- if and $v.egress (not $v.models) -}}{{ println "externalModels.egress: there are no externalModels.models" }}{{- end -}}
{{- if hasKey (include "thumbwheel.values" (list . "generator") | fromYaml).settings "external_models" -}}{{ println "services.generator.settings.external_models: set externalModels.models, which also gives the generator keys and network access" }}{{- end -}}
{{- end -}}
