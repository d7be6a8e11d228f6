{{/* Models of other providers: settings of the generator, keys, egress, and names for training. */}}

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
{{ toYaml .egress }}
{{- else if .models -}}
{{- $ports := list -}}
{{- range .models -}}
  {{- $url := urlParse .url -}}
  {{- $default := eq $url.scheme "https" | ternary 443 80 -}}
  {{- $ports = append $ports (regexMatch ":[0-9]+$" $url.host | ternary (splitList ":" $url.host | last | int) $default) -}}
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
{{- range $name, $model := $v.models -}}
  {{- if and $model.secretKey (not $v.existingSecret) -}}{{ fail (printf "externalModels.existingSecret: externalModels.models.%s.secretKey names a key of that secret" $name) }}{{- end -}}
{{- end -}}
{{- if and $v.egress (not $v.models) -}}{{ fail "externalModels.egress: there are no externalModels.models" }}{{- end -}}
{{- if hasKey (include "thumbwheel.values" (list . "generator") | fromYaml).settings "external_models" -}}{{ fail "services.generator.settings.external_models: set externalModels.models, which also gives the generator keys and network access" }}{{- end -}}
{{- end -}}
